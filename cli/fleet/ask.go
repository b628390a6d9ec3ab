// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// maxAnswer bounds what is read of one program: a dump of 5,000 pods has 20 MB.
const maxAnswer = 256 << 20

// Clock is what a program's clock shows, compared with ours.
type Clock struct {
	Offset time.Duration // its clock less ours
	Within time.Duration // the offset is known to plus or minus this
}

// Skewed is how far the clock is off at least; zero while it may be right.
func (c Clock) Skewed() time.Duration {
	switch {
	case c.Offset > c.Within:
		return c.Offset - c.Within
	case c.Offset < -c.Within:
		return c.Offset + c.Within
	}
	return 0
}

// clock compares the Date of an answer, whose fraction of a second is cut off, with
// when the request left and when the answer came. The program looked at its clock
// some time in between.
func clock(date string, left, came time.Time) (Clock, error) {
	at, err := http.ParseTime(date)
	if err != nil {
		return Clock{}, fmt.Errorf("the Date of the answer: %v", err)
	}
	least, most := at.Sub(came), at.Add(time.Second).Sub(left)
	return Clock{Offset: least + (most-least)/2, Within: (most - least) / 2}, nil
}

// get asks a port of a target. Its error is for a row of a table: it does not name
// the target.
func (t Target) get(ctx context.Context, port int, path string) (body []byte, c Clock, err error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return t.dial(ctx, port) },
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host(port)+path, nil)
	if err != nil {
		return nil, c, err
	}
	left := time.Now()
	answer, err := client.Do(request)
	if err != nil {
		return nil, c, plain(err)
	}
	defer answer.Body.Close()
	c, err = clock(answer.Header.Get("Date"), left, time.Now())
	if err != nil {
		return nil, c, err
	}
	body, err = io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, c, fmt.Errorf("read %s: %v", path, err)
	case len(body) > maxAnswer:
		return nil, c, fmt.Errorf("%s is longer than %d bytes", path, maxAnswer)
	case answer.StatusCode != http.StatusOK:
		return nil, c, fmt.Errorf("%s: %s: %s", path, answer.Status, firstLine(body))
	}
	return body, c, nil
}

// Fetch asks a port of a target for a page. Its error is for a row of a table.
func (t Target) Fetch(ctx context.Context, port int, path string) ([]byte, error) {
	body, _, err := t.get(ctx, port, path)
	return body, err
}

func firstLine(body []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
	return line[:min(len(line), 200)]
}

// plain is the reason within an error of net/http, which names an address that nobody
// dialled.
func plain(err error) error {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", askFor)
	}
	var inner interface{ Unwrap() error }
	if errors.As(err, &inner) && inner.Unwrap() != nil {
		err = inner.Unwrap()
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: it is for root alone", err)
	}
	return err
}

// Watch is told of targets that were asked: nil is told nothing.
type Watch interface {
	Parts(of int)
	Done(parts int)
}

type watched struct{}

// Watched has those who are asked with ctx told to w.
func Watched(ctx context.Context, w Watch) context.Context {
	return context.WithValue(ctx, watched{}, w)
}

// each runs do for every target, some at a time, and waits for all.
func each(ctx context.Context, targets []Target, do func(i int, t Target)) {
	w, told := ctx.Value(watched{}).(Watch)
	if told {
		w.Parts(len(targets))
	}
	var group sync.WaitGroup
	slots := make(chan struct{}, atATime)
	for i, t := range targets {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			do(i, t)
			if told {
				w.Done(1)
			}
		})
	}
	group.Wait()
}
