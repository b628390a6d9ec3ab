// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Conn is a socket in the agent's process. It is a net.Conn, so that crypto/tls
// or bufio can speak through it; its addresses are those of the agent's side.
type Conn struct {
	agent *Client
	id    uint64

	mu            sync.Mutex // guards what follows
	names         Names
	readDeadline  time.Time
	writeDeadline time.Time
}

// Connect connects a socket made by Open, or one whose connect failed.
func (c *Conn) Connect(ctx context.Context, to Connect) error {
	o, err := call[opened](ctx, c.agent, "connect", connectArgs{c.id, to})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.names = o.Names
	}
	return err
}

// Names asks the kernel again what the socket's ends are called.
func (c *Conn) Names(ctx context.Context) (Names, error) {
	return call[Names](ctx, c.agent, "names", idArgs{ID: c.id})
}

// Local is what getsockname said when the connection was made.
func (c *Conn) Local() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names.Local
}

// Peer is what getpeername said when the connection was made.
func (c *Conn) Peer() netip.AddrPort {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names.Peer
}

// Option reads an integer socket option.
func (c *Conn) Option(ctx context.Context, level, name int) (int, error) {
	return call[int](ctx, c.agent, "option", optionArgs{c.id, Option{Level: level, Name: name}})
}

// SetOption sets an integer socket option.
func (c *Conn) SetOption(ctx context.Context, o Option) error {
	_, err := call[struct{}](ctx, c.agent, "setoption", optionArgs{c.id, o})
	return err
}

// Send writes all of data.
func (c *Conn) Send(ctx context.Context, data []byte) error {
	_, err := call[int](ctx, c.agent, "write", writeArgs{ID: c.id, Data: data, Timeout: left(ctx)})
	return err
}

// SendUrgent writes all of data, and marks its last byte as urgent (MSG_OOB).
func (c *Conn) SendUrgent(ctx context.Context, data []byte) error {
	_, err := call[int](ctx, c.agent, "write", writeArgs{ID: c.id, Data: data, Urgent: true, Timeout: left(ctx)})
	return err
}

// Receive reads up to most bytes, at least one. The end is io.EOF.
func (c *Conn) Receive(ctx context.Context, most int) ([]byte, error) {
	return call[[]byte](ctx, c.agent, "read", readArgs{ID: c.id, Max: most, Timeout: left(ctx)})
}

// ReceiveFull reads exactly n bytes.
func (c *Conn) ReceiveFull(ctx context.Context, n int) ([]byte, error) {
	return call[[]byte](ctx, c.agent, "read", readArgs{ID: c.id, Max: n, Full: true, Timeout: left(ctx)})
}

// Ping sends message to an echo server and awaits it back.
func (c *Conn) Ping(ctx context.Context, message string) error {
	if err := c.Send(ctx, []byte(message)); err != nil {
		return err
	}
	got, err := c.ReceiveFull(ctx, len(message))
	if err != nil {
		return err
	}
	if string(got) != message {
		return errors.New("echo: other bytes came back: " + string(got))
	}
	return nil
}

// Transfer moves bulk data both ways at once.
func (c *Conn) Transfer(ctx context.Context, t Transfer) (Transferred, error) {
	return call[Transferred](ctx, c.agent, "transfer", transferArgs{c.id, t})
}

// CloseWrite half-closes: the peer reads the end, and may still send.
func (c *Conn) CloseWrite() error {
	_, err := call[struct{}](context.Background(), c.agent, "closewrite", idArgs{ID: c.id})
	return err
}

// Close closes the socket.
func (c *Conn) Close() error {
	_, err := call[struct{}](context.Background(), c.agent, "close", idArgs{ID: c.id})
	return err
}

// Reset closes the socket with RST.
func (c *Conn) Reset() error {
	_, err := call[struct{}](context.Background(), c.agent, "reset", idArgs{ID: c.id})
	return err
}

// left is the time ctx has, as the agent's own timeout; none: its default.
func left(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return max(time.Until(deadline), 1)
	}
	return 0
}

// Read is Receive as io.Reader.
func (c *Conn) Read(p []byte) (int, error) {
	timeout, err := c.timeout(&c.readDeadline)
	if err != nil {
		return 0, err
	}
	data, err := call[[]byte](context.Background(), c.agent, "read", readArgs{ID: c.id, Max: len(p), Timeout: timeout})
	if errors.Is(err, io.EOF) {
		err = io.EOF // bare, as io.Reader asks
	}
	return copy(p, data), err
}

// Write is Send as io.Writer.
func (c *Conn) Write(p []byte) (int, error) {
	timeout, err := c.timeout(&c.writeDeadline)
	if err != nil {
		return 0, err
	}
	return call[int](context.Background(), c.agent, "write", writeArgs{ID: c.id, Data: p, Timeout: timeout})
}

// timeout is the time to a deadline; without one, longer than any test.
func (c *Conn) timeout(deadline *time.Time) (time.Duration, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if deadline.IsZero() {
		return time.Hour, nil
	}
	if d := time.Until(*deadline); d > 0 {
		return d, nil
	}
	return 0, os.ErrDeadlineExceeded
}

// LocalAddr is Local as net.Addr.
func (c *Conn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.Local()) }

// RemoteAddr is Peer as net.Addr.
func (c *Conn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.Peer()) }

// SetDeadline bounds later reads and writes, not those in progress.
func (c *Conn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readDeadline, c.writeDeadline = t, t
	return nil
}

// SetReadDeadline bounds later reads.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readDeadline = t
	return nil
}

// SetWriteDeadline bounds later writes.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writeDeadline = t
	return nil
}

// Listener is a listening socket, or a server, in the agent's process.
type Listener struct {
	agent *Client
	id    uint64
	Addr  netip.AddrPort // as bound
}

// Accept awaits a connection.
func (l *Listener) Accept(ctx context.Context) (*Conn, error) {
	o, err := call[opened](ctx, l.agent, "accept", idArgs{ID: l.id, Timeout: left(ctx)})
	if err != nil {
		return nil, err
	}
	return &Conn{agent: l.agent, id: o.ID, names: o.Names}, nil
}

// Served lists the connections that a server has had, oldest first.
func (l *Listener) Served(ctx context.Context) ([]Served, error) {
	return call[[]Served](ctx, l.agent, "served", idArgs{ID: l.id})
}

// Close stops listening; accepted connections live on.
func (l *Listener) Close() error {
	_, err := call[struct{}](context.Background(), l.agent, "close", idArgs{ID: l.id})
	return err
}
