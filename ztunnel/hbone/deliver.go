// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// keptSegments is for how many segments of one read a stream keeps room.
const keptSegments = 64

// deliver passes on to the app what one read of the tunnel brought. The tunnel's
// reader calls it, which must not wait for an app.
func (s *Stream) deliver(segments [][]byte, overhead int, end receiverState) {
	p, mustDrain := s.toApp.take(segments, end)
	p.taken += overhead
	if end == receiverCut {
		s.toApp.hurry()
	}
	s.follow(p, mustDrain)
}

// attach gives the stream its app. It reports false if the stream is over.
func (s *Stream) attach(app *net.TCPConn, raw syscall.RawConn) bool {
	p, mustDrain, ok := s.toApp.join(app, raw)
	if ok {
		s.follow(p, mustDrain)
	}
	return ok
}

// follow does what a step of the receiver asks for.
func (s *Stream) follow(p progress, mustDrain bool) {
	s.c.granted(s, p.taken, p.queued)
	if p.queued > 0 && s.c.overfull(s) {
		p.broke = nil
	}
	switch {
	case mustDrain:
		go s.drain()
	case p.broke != nil:
		s.appBroke(p.broke)
	case p.tell:
		s.tell()
	case p.part:
		s.part()
	}
}

// drain writes what is queued to the app, as fast as it reads.
func (s *Stream) drain() {
	for {
		b, p := s.toApp.next()
		if b == nil {
			s.follow(p, false)
			return
		}
		n, err := s.writeWaiting(b)
		s.toApp.wrote(n)
		s.c.granted(s, n, -n)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // of hurry
			s.finishCut()
		case err != nil:
			s.appBroke(err)
		case s.toApp.is(receiverCut):
			s.toApp.hurry()
		}
	}
}

// writeWaiting writes some of p and waits until the socket has room for it. Its
// caller is the only one who writes.
func (s *Stream) writeWaiting(p []byte) (n int, err error) {
	werr := s.toApp.raw.Write(func(fd uintptr) bool {
		n, err = socket.Write(fd, p)
		return err != syscall.EAGAIN
	})
	if werr != nil {
		return 0, werr
	}
	return n, err
}

// tell passes the peer's END_STREAM on to the app, as a FIN.
func (s *Stream) tell() {
	if err := socket.CloseWrite(s.toApp.raw); err != nil {
		s.appBroke(err)
		return
	}
	c := s.c
	c.mu.Lock()
	defer c.unlock()
	s.told = true
	if s.endSent && s.cause == nil {
		c.arrive(s)
	}
}

// appFailed ends the stream because its app broke the connection, and nothing that
// it sent is left to be read.
func (s *Stream) appFailed(err error) {
	s.resetWith(h2.CodeCancel, fmt.Errorf("%w: app: %v", ErrReset, unwrapOp(err)))
}

// unwrapOp drops the addresses that net puts before an error: the access record has them.
func unwrapOp(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}
