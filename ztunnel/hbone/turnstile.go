// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// secure shakes hands by way of the Gate. If it fails, the caller closes the socket.
func (v *visitor) secure(ctx context.Context, conn net.Conn, client bool, records Records, cred Credential) (wire, proof, error) {
	t := &turnstile{Conn: conn, ctx: ctx, visitor: v}
	defer t.open()
	w, p, err := t.shake(client, records, cred)
	if err != nil && t.late { // which says nothing of the peer
		err = fmt.Errorf("%w: too many handshakes: the one with %v did not get its turn in time", ErrLimit, conn.RemoteAddr())
	}
	return w, p, err
}

func (t *turnstile) shake(client bool, records Records, cred Credential) (wire, proof, error) {
	if client { // it computes before it reads
		if err := t.take(); err != nil {
			return nil, proof{}, fmt.Errorf("%w: handshake with %v: %w", ErrTLS, t.RemoteAddr(), err)
		}
	}
	return secure(t.ctx, t, client, records, cred)
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
	late    bool // the handshake's time was over before it got a slot
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
	return socket.WriteAll(t.Conn, p)
}

func (t *turnstile) take() error {
	err := t.visitor.take(t.ctx)
	t.holds, t.late = err == nil, errors.Is(err, context.DeadlineExceeded)
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

// NetConn is the socket, for a caller that needs the turnstile no more.
func (t *turnstile) NetConn() net.Conn { return t.Conn }
