// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

const (
	maxEvent = 1 << 20 // bytes of a line
	// quiet is how long a stream may say nothing: ztunnel sends an empty line every 15 s.
	quiet = 40 * time.Second
)

// EventEnd is one end of a connection, as far as its node knows it.
type EventEnd struct {
	Address   netip.AddrPort `json:"address"`
	Namespace string         `json:"namespace"`
	Pod       string         `json:"pod"`
	Workload  string         `json:"workload"`
	Identity  string         `json:"identity"` // proven
}

// Event is a line of /events. What does not concern its kind is empty.
type Event struct {
	Time        time.Time `json:"time"`
	Kind        string    `json:"event"`
	Direction   string    `json:"direction"`
	Path        string    `json:"path"`
	Source      EventEnd  `json:"source"`
	Destination EventEnd  `json:"destination"`
	Service     string    `json:"service"` // NAMESPACE/NAME
	Secured     bool      `json:"secured"`
	Plaintext   string    `json:"plaintext"` // why it is
	Result      string    `json:"result"`    // the word of the access record
	Policy      string    `json:"policy"`
	Error       string    `json:"error"`
	BytesSent   uint64    `json:"bytesSent"`
	BytesRecv   uint64    `json:"bytesRecv"`
	Duration    string    `json:"duration"`
	Pod         string    `json:"pod"`
	Identity    string    `json:"identity"`
	What        string    `json:"what"`
	Count       uint64    `json:"count"` // that were dropped

	Line json.RawMessage `json:"-"` // as it came
}

// events reads a target's /events until the stream ends, which is an error always. It
// calls listens once the target has said yes.
func (t Target) events(ctx context.Context, query url.Values, listens func(), take func(Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := time.AfterFunc(askFor, func() { cancel(fmt.Errorf("no answer within %v", askFor)) })
	defer silent.Stop()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, ZtunnelAdmin) },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host(ZtunnelAdmin)+"/events?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return because(ctx, plain(err))
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10)) // the status says enough
		return fmt.Errorf("/events: %s: %s", answer.Status, firstLine(body))
	}
	silent.Stop()
	listens()
	silent = time.AfterFunc(quiet, func() { cancel(fmt.Errorf("it has said nothing for %v", quiet)) })
	defer silent.Stop()
	lines := bufio.NewScanner(answer.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		silent.Stop() // that we take our time is no silence of the target's
		if line := bytes.TrimSpace(lines.Bytes()); len(line) > 0 {
			e := Event{Line: bytes.Clone(line)}
			if err := json.Unmarshal(line, &e); err != nil {
				return fmt.Errorf("a line of /events is not understood: %v", err)
			}
			take(e)
		}
		silent.Reset(quiet)
	}
	if err := lines.Err(); err != nil {
		return because(ctx, plain(err))
	}
	return because(ctx, errors.New("it ended the stream"))
}

// Listen reads a target's events until ctx is done or the stream ends, which is an error
// always.
func (t Target) Listen(ctx context.Context, take func(Event)) error {
	return t.events(ctx, nil, func() {}, take)
}

// because is the reason for which ctx was ended, or err.
func because(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
