// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// serve takes one connection from handshake to end.
func (l *Listener) serve(socket net.Conn) {
	provings := l.provingsNow()
	c := l.meet(socket)
	if c == nil {
		return
	}
	if l.since(provings) { // Reprove came too early for it
		c.reprove()
	}
	if c.stale { // Retire came too early for it, and credentials that were replaced prove nothing
		c.retire()
	} else {
		l.extendOlder(c, provings)
	}
	c.run()
}

// meet shakes hands; nil if that did not end in a tunnel.
func (l *Listener) meet(socket net.Conn) (c *conn) {
	shed := func(why error) *conn {
		l.shed.Add(1)
		resetSocket(socket)
		l.refused(socket, why)
		return nil
	}
	if err := l.places.take(l.ctx); err != nil {
		return shed(err)
	}
	defer func() {
		if c == nil { // else gone does it
			l.places.give()
		}
	}()
	ctx, cancel := context.WithTimeout(l.ctx, l.cfg.HandshakeTimeout)
	defer cancel()
	ctx, evict := context.WithCancelCause(ctx)
	defer evict(nil)
	_, from := addresses(socket)
	v := l.cfg.Door.enter(from.Addr(), func() { evict(errEvicted) })
	defer v.leave() // only when the socket is closed, or a tunnel's
	l.handshakes.Add(1)
	c, err := l.shake(ctx, socket, v)
	switch {
	case err == nil:
		return c
	case context.Cause(ctx) == errEvicted:
		return shed(errEvicted)
	case errors.Is(err, ErrLimit):
		return shed(err)
	default:
		l.failed.Add(1)
		l.refused(socket, err)
		linger(ctx, socket)
	}
	return nil
}

var errEvicted = fmt.Errorf("%w: too many handshakes, and this one was slow", ErrLimit)

func (l *Listener) refused(socket net.Conn, err error) {
	if l.cfg.Refused != nil && !errors.Is(err, ErrDrained) {
		_, from := addresses(socket)
		l.cfg.Refused(from, err)
	}
}

func (l *Listener) shake(ctx context.Context, socket net.Conn, v *visitor) (*conn, error) {
	l.mu.Lock()
	epoch, denials := l.epoch, l.denials
	l.mu.Unlock()
	cred, err := l.cfg.Credential(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", causeOf(err, ErrIdentity), err)
	}
	w, proof, err := v.secure(ctx, socket, false, l.cfg.Records, cred)
	if err != nil {
		return nil, err
	}
	c := newConn(false, w, proof, &l.hooks)
	c.streamLimit = l.cfg.MaxStreams
	c.payer = payerOf(c.peer, l.cfg.TrustDomain)
	c.unawaited = c.payer != c.peer && l.cfg.Awaited != nil && !l.cfg.Awaited(c.peer.TrustDomain())
	c.memory = l.cfg.Memory
	c.idleTimeout = l.cfg.IdleTimeout
	if err := l.join(c, epoch, denials); err != nil {
		return nil, err
	}
	if !c.unawaited { // such a one is no reason to let its address go first
		l.cfg.Door.settled(c.remote.Addr())
	}
	return c, nil
}

// linger closes a socket so that the peer reads our last bytes, an alert:
// closed with unread bytes, it would be reset. Nothing of an app was sent. The end
// of ctx ends it.
func linger(ctx context.Context, socket net.Conn) {
	defer context.AfterFunc(ctx, func() { socket.Close() })()
	if tcp, ok := socket.(*net.TCPConn); ok {
		tcp.CloseWrite()
		tcp.SetReadDeadline(time.Now().Add(hangUpTimeout))
		io.Copy(io.Discard, io.LimitReader(tcp, h2.DefaultFrameLimit))
	}
	socket.Close()
}

// resetSocket closes a socket with a reset. Nothing of ours was sent.
func resetSocket(socket net.Conn) {
	if tcp, ok := socket.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	socket.Close()
}
