// SPDX-License-Identifier: Apache-2.0

package record

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// Conn is a connection after its handshake.
type Conn struct {
	socket     net.Conn
	raw        syscall.RawConn // of a syscall.Conn; nil: a net.Conn that blocks
	client     bool
	keyLimit   uint64     // records under one key, see defaultKeyLimit
	updateRate rate.Limit // of the peer's KeyUpdates, see keyUpdateRate

	fatal    atomic.Pointer[Error] // either side's fatal alert: nothing is sent any more
	owed     atomic.Bool           // the peer asked for our KeyUpdate
	overused atomic.Bool           // the peer should update its key
	resting  atomic.Bool           // a key is kept no longer than it is used
	written  atomic.Uint64         // bytes that the socket took

	rmu sync.Mutex
	receiving

	wmu sync.Mutex
	sending
}

func newConn(socket net.Conn, client bool) *Conn {
	c := &Conn{socket: socket, client: client, keyLimit: defaultKeyLimit, updateRate: keyUpdateRate}
	if s, ok := socket.(syscall.Conn); ok {
		if raw, err := s.SyscallConn(); err == nil {
			c.raw = raw
			c.readFn, c.writeFn = c.readSome, c.writeSome
			c.tryFn = func(fd uintptr) bool { c.writeSome(fd); return true }
		}
	}
	return c
}

// Written is how many bytes the socket has taken since the handshake. Its user
// compares them with what the peer's TCP has not acknowledged.
func (c *Conn) Written() uint64 { return c.written.Load() }

// Close closes the socket at once, without a close_notify, and erases the keys.
// What Receive has returned stays valid. What the socket took and has not sent may
// be lost by that, and so must not matter to the caller.
func (c *Conn) Close() error {
	err := c.socket.Close() // wakes whoever reads or writes
	c.rmu.Lock()
	c.endReceiving(net.ErrClosed)
	c.rmu.Unlock()
	c.wmu.Lock()
	c.endSending(net.ErrClosed)
	c.wmu.Unlock()
	return err
}

// LocalAddr is the socket's.
func (c *Conn) LocalAddr() net.Addr { return c.socket.LocalAddr() }

// RemoteAddr is the socket's.
func (c *Conn) RemoteAddr() net.Addr { return c.socket.RemoteAddr() }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error { return c.socket.SetDeadline(t) }

// SetReadDeadline bounds Receive and Read; after one was missed they may go on.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.socket.SetReadDeadline(t) }

// SetWriteDeadline bounds WriteBatch, Write and CloseWrite; after one was missed
// no more can be sent.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.socket.SetWriteDeadline(t) }

var _ net.Conn = (*Conn)(nil)
