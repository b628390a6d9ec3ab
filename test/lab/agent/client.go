// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
)

// ErrGone is what calls end with when the agent's process is gone.
var ErrGone = errors.New("agent is gone")

// Client tells one agent what to do. Its methods may be called at once.
type Client struct {
	out io.WriteCloser

	mu      sync.Mutex // guards what follows, and one request line at a time
	lastID  uint64
	waiting map[uint64]chan response
	gone    error
}

// NewClient speaks to the agent whose standard input is out and output is in.
func NewClient(in io.Reader, out io.WriteCloser) *Client {
	c := &Client{out: out, waiting: make(map[uint64]chan response)}
	go c.receive(in)
	return c
}

func (c *Client) receive(in io.Reader) {
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	err := ErrGone
	for lines.Scan() {
		var resp response
		if jerr := json.Unmarshal(lines.Bytes(), &resp); jerr != nil {
			err = fmt.Errorf("%w: its answer is not JSON: %v", ErrGone, jerr)
			break
		}
		c.mu.Lock()
		reply := c.waiting[resp.ID]
		delete(c.waiting, resp.ID)
		c.mu.Unlock()
		if reply != nil {
			reply <- resp
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = err
	for id, reply := range c.waiting {
		delete(c.waiting, id)
		close(reply)
	}
}

// Close ends the agent: it exits when its input does, with all its sockets.
func (c *Client) Close() error { return c.out.Close() }

func (c *Client) send(name string, args any) (uint64, chan response, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return 0, nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return 0, nil, c.gone
	}
	c.lastID++
	line, err := json.Marshal(request{ID: c.lastID, Op: name, Args: raw})
	if err != nil {
		return 0, nil, err
	}
	reply := make(chan response, 1)
	c.waiting[c.lastID] = reply
	if _, err := c.out.Write(append(line, '\n')); err != nil {
		delete(c.waiting, c.lastID)
		return 0, nil, fmt.Errorf("%w: %v", ErrGone, err)
	}
	return c.lastID, reply, nil
}

// call does one operation. What it did before it failed is returned with the
// error.
func call[R any](ctx context.Context, c *Client, name string, args any) (result R, err error) {
	id, reply, err := c.send(name, args)
	if err != nil {
		return result, fmt.Errorf("%s: %w", name, err)
	}
	var resp response
	var ok bool
	select {
	case resp, ok = <-reply:
	case <-ctx.Done():
		c.cancel(id)
		return result, fmt.Errorf("%s: %w", name, context.Cause(ctx))
	}
	if !ok {
		return result, fmt.Errorf("%s: %w", name, ErrGone)
	}
	if len(resp.Result) > 0 {
		if err := json.Unmarshal(resp.Result, &result); err != nil {
			return result, fmt.Errorf("%s: result: %v", name, err)
		}
	}
	if resp.Error != nil {
		return result, resp.Error
	}
	return result, nil
}

func (c *Client) cancel(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
	line, err := json.Marshal(request{ID: id, Op: "cancel"})
	if err == nil {
		_, _ = c.out.Write(append(line, '\n'))
	}
}

// PID is the agent's process id.
func (c *Client) PID(ctx context.Context) (int, error) {
	h, err := call[hello](ctx, c, "hello", nil)
	return h.PID, err
}

// Open makes a socket without connecting it. to decides a "tcp" network's family.
func (c *Client) Open(ctx context.Context, spec Socket, to netip.AddrPort) (*Conn, error) {
	o, err := call[opened](ctx, c, "open", dialArgs{spec, Connect{To: to}})
	if err != nil {
		return nil, err
	}
	return &Conn{agent: c, id: o.ID, names: o.Names}, nil
}

// Dial connects, with network "tcp", "tcp4", "tcp6", "udp4" or "udp6".
func (c *Client) Dial(ctx context.Context, network string, to netip.AddrPort) (*Conn, error) {
	return c.DialWith(ctx, Socket{Network: network}, Connect{To: to})
}

// DialWith connects a socket made as spec says.
func (c *Client) DialWith(ctx context.Context, spec Socket, to Connect) (*Conn, error) {
	o, err := call[opened](ctx, c, "dial", dialArgs{spec, to})
	if err != nil {
		return nil, err
	}
	return &Conn{agent: c, id: o.ID, names: o.Names}, nil
}

// Listen listens on spec.Bind.
func (c *Client) Listen(ctx context.Context, spec Socket) (*Listener, error) {
	o, err := call[opened](ctx, c, "listen", listenArgs{Socket: spec})
	if err != nil {
		return nil, err
	}
	return &Listener{agent: c, id: o.ID, Addr: o.Local}, nil
}

// Serve starts a server. The Listener tells whom it served, and closes it.
func (c *Client) Serve(ctx context.Context, spec Server) (*Listener, error) {
	o, err := call[opened](ctx, c, "serve", spec)
	if err != nil {
		return nil, err
	}
	return &Listener{agent: c, id: o.ID, Addr: o.Local}, nil
}

// Get sends an HTTP GET on a connection of its own.
func (c *Client) Get(ctx context.Context, r Request) (Answer, error) {
	return call[Answer](ctx, c, "get", r)
}

// Many opens a crowd of connections and holds them until ManyClose.
func (c *Client) Many(ctx context.Context, m Many) (Crowd, error) {
	return call[Crowd](ctx, c, "many", m)
}

// ManyCheck has each connection of a crowd echo once more.
func (c *Client) ManyCheck(ctx context.Context, crowd uint64) (Crowd, error) {
	return call[Crowd](ctx, c, "manycheck", idArgs{ID: crowd})
}

// ManyClose closes a crowd.
func (c *Client) ManyClose(ctx context.Context, crowd uint64) error {
	_, err := call[struct{}](ctx, c, "manyclose", idArgs{ID: crowd})
	return err
}

// Latency measures round trips to an echo server through one connection.
func (c *Client) Latency(ctx context.Context, m Measure) (Quantiles, error) {
	return call[Quantiles](ctx, c, "latency", m)
}

// Throughput measures bulk writes to a discard server.
func (c *Client) Throughput(ctx context.Context, m Measure) (Throughput, error) {
	return call[Throughput](ctx, c, "throughput", m)
}

// Connects measures connect() by opening one connection after another.
func (c *Client) Connects(ctx context.Context, m Measure) (Quantiles, error) {
	return call[Quantiles](ctx, c, "connects", m)
}
