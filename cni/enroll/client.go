// SPDX-License-Identifier: Apache-2.0

package enroll

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
)

// ErrUnanswered says that nobody decided: there was no ztunnel, or it went
// away or ran out of time. Any other error of a Client is ztunnel's answer.
var ErrUnanswered = errors.New("ztunnel did not answer")

// Client asks the ztunnel that listens on Socket. Every call ends within Budget.
type Client struct {
	Socket string // path of the enroll socket; required
}

// Add asks for the sandbox to be enrolled if its pod is in the mesh.
func (c Client) Add(ctx context.Context, r Request) (Reply, error) {
	var out Reply
	if err := c.post(ctx, pathAdd, r, &out); err != nil {
		return Reply{}, err
	}
	if err := out.validate(); err != nil {
		return Reply{}, fmt.Errorf("read ztunnel's reply: %v", err)
	}
	return out, nil
}

// Del reports that the sandbox is going.
func (c Client) Del(ctx context.Context, r Request) error {
	return c.post(ctx, pathDel, r, &struct{}{})
}

// Check asks whether the sandbox is as Add left it.
func (c Client) Check(ctx context.Context, r Request) error {
	return c.post(ctx, pathCheck, r, &struct{}{})
}

// GC names the attachments of a network that still exist.
func (c Client) GC(ctx context.Context, network string, valid []Attachment) error {
	if valid == nil {
		valid = []Attachment{}
	}
	return c.post(ctx, pathGC, gcRequest{network, valid}, &struct{}{})
}

func (c Client) post(ctx context.Context, path string, in, out any) error {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://ztunnel"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", c.Socket)
		},
	}
	defer transport.CloseIdleConnections()
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return unanswered(ctx, err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return unanswered(ctx, err)
	}
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusGatewayTimeout:
		return fmt.Errorf("%w within %v", ErrUnanswered, Budget)
	default:
		return refused(resp.Status, data)
	}
	if err := decode(data, out); err != nil {
		return fmt.Errorf("read ztunnel's reply: %v", err)
	}
	return nil
}

func unanswered(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w within %v", ErrUnanswered, Budget)
	}
	return fmt.Errorf("%w: %v", ErrUnanswered, err)
}

func refused(status string, body []byte) error {
	var why failure
	if err := decode(body, &why); err != nil || why.Error == "" {
		return fmt.Errorf("ztunnel replied %s", status)
	}
	return errors.New(why.Error)
}
