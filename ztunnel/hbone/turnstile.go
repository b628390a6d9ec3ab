// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"net"
	"syscall"
)

// secure has a handshake go through the Gate. If it fails, the caller closes the
// socket.
func (v *visitor) secure(ctx context.Context, socket net.Conn, client bool, records Records, cred Credential) (wire, proof, error) {
	t := &turnstile{Conn: socket, ctx: ctx, visitor: v}
	defer t.open()
	if client { // it computes before it reads
		if err := t.take(); err != nil {
			return nil, proof{}, fmt.Errorf("%w: handshake with %v: %w", ErrTLS, socket.RemoteAddr(), err)
		}
	}
	return secure(ctx, t, client, records, cred)
}

// turnstile is the socket of a handshake under way: it holds a slot from when
// the peer said something until we answered, or it must say more. It bounds what
// the peer says, whose certificates crypto/tls parses before anyone may look at
// them. After open it is only the socket.
type turnstile struct {
	net.Conn
	ctx     context.Context // of the handshake
	visitor *visitor        // nil: open
	holds   bool
	read    int
}

func (t *turnstile) Read(p []byte) (int, error) {
	if t.visitor == nil {
		return t.Conn.Read(p)
	}
	t.release()
	n, err := t.Conn.Read(p)
	if t.read += n; t.read > handshakeSize {
		return 0, fmt.Errorf("handshake of more than %d bytes", handshakeSize)
	}
	if err == nil {
		err = t.take()
	}
	return n, err
}

// Write gives the slot back: nobody computes behind a peer that takes nothing.
// What is left to do before the next Read is little.
func (t *turnstile) Write(p []byte) (int, error) {
	t.release()
	return t.Conn.Write(p)
}

func (t *turnstile) take() error {
	err := t.visitor.take(t.ctx)
	t.holds = err == nil
	return err
}

func (t *turnstile) release() {
	if t.holds {
		t.holds = false
		t.visitor.release()
	}
}

// open ends the handshake.
func (t *turnstile) open() {
	t.release()
	t.visitor, t.ctx = nil, nil
}

// SyscallConn is the socket's.
func (t *turnstile) SyscallConn() (syscall.RawConn, error) {
	if s, ok := t.Conn.(syscall.Conn); ok {
		return s.SyscallConn()
	}
	return nil, syscall.ENOTSOCK
}

// NetConn is the socket, for who has no need of a turnstile any more.
func (t *turnstile) NetConn() net.Conn { return t.Conn }
