// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"
)

// httpGet asks a daemon from inside the place's netns.
func (p *Place) httpGet(ctx context.Context, url string) (status int, body string, err error) {
	return get(ctx, url, func(ctx context.Context, _, addr string) (net.Conn, error) {
		to, err := netip.ParseAddrPort(addr)
		if err != nil {
			return nil, err
		}
		return p.DialUnsteered(ctx, to)
	})
}

func get(ctx context.Context, url string, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (int, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// awaitReady asks url until it answers 200. A process that ends instead is an
// error that shows its last words.
func (p *Place) awaitReady(ctx context.Context, proc *Process, url string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("timed out"))
	defer cancel()
	last := "no answer"
	err := until(ctx, func() (bool, error) {
		if !proc.Running() {
			return false, fmt.Errorf("it ended: %v", proc.err)
		}
		status, body, err := p.httpGet(ctx, url)
		if err != nil {
			last = err.Error()
			return false, nil
		}
		last = fmt.Sprintf("%d %s", status, body)
		return status == http.StatusOK, nil
	})
	if err != nil {
		return fmt.Errorf("await %s: %w (%s)\n%s", proc.Name, err, last, tail(proc.Log))
	}
	return nil
}
