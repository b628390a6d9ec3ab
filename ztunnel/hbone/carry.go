// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// Totals is what a stream carried.
type Totals struct {
	Sent     uint64 // bytes from the app into the tunnel
	Received uint64 // bytes from the tunnel to the app
}

// Carry joins the stream and the app's socket until both directions are done,
// and owns the socket from now on: it is closed then. Each side
// may close its direction alone (FIN and END_STREAM). If either breaks off, the
// other is reset, and so is the app when the tunnel ends; then the error says why.
// Without an error, the peer's TCP has acknowledged what the app said, and the app's
// what the peer said.
//
// It calls carried when all is over: before it returns, or later in another goroutine.
// A stream that is idle has none (park.go).
func (s *Stream) Carry(app *net.TCPConn, carried func(Totals, error)) {
	s.carried = carried
	raw, err := app.SyscallConn()
	if err != nil {
		app.Close() // is closed already
		s.appFailed(err)
		s.letGo()
		carried(Totals{}, s.result())
		return
	}
	socket.LimitUnsent(raw, socket.UnsentOfApp)
	s.header, s.answered = nil, nil // which nobody asks for any more, and an idle stream would hold
	app.SetDeadline(time.Time{})    // from now on the read deadline is rest's
	if s.attach(app, raw) {
		s.carryOn()
		return
	}
	<-s.done // the stream is over
	s.conclude(app, raw)
}

// conclude is the end of Carry, when the stream is done.
func (s *Stream) conclude(app *net.TCPConn, raw syscall.RawConn) {
	err, orderly := s.ending()
	switch {
	case !orderly: // sever does so too, but perhaps later than we close
		socket.Abort(app)
	case err == nil:
		err = s.settle(app, raw)
	case s.unread:
		s.settle(app, raw) // which has its answer at least
	}
	// After both FINs the kernel goes on to send what the app was too slow for, and the FIN
	// behind it: nothing unread is left, for which it would send a reset.
	app.Close() // unless it was aborted
	s.letGo()
	s.carried(s.Totals(), err)
}

// Totals is what the stream has carried so far, and in the end what Carry
// returns.
func (s *Stream) Totals() Totals {
	s.toApp.mu.Lock()
	defer s.toApp.mu.Unlock()
	return Totals{Sent: s.sent.Load(), Received: s.toApp.received}
}

// pump sends what the app sends, until its end. If that was a reset, it resets the
// stream: the peer has by then all that came before. It reports false if the stream is
// parked.
func (s *Stream) pump() (ended bool) {
	raw, serve := s.toApp.raw, s.serve
	err := raw.Read(serve)
	for ; errors.Is(err, os.ErrDeadlineExceeded); err = raw.Read(serve) {
		s.c.writer.leavePump(s)
		if s.rest.Park(s.toApp.app, raw, s.resume) {
			return false
		}
		if s.rest.Stopped() {
			return true
		}
	}
	if err == nil {
		err = s.c.writer.readError(s)
	}
	if err != nil {
		s.appFailed(err) // nothing, if the stream is over: then it was we who closed the socket
	}
	return true
}

// readError is why the app's socket could not be read to its end, nil if it could.
func (w *writer) readError(s *Stream) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.readErr
}

// crowded reports that the stream has sent so many tiny frames without an answer
// that it should rather wait for more bytes from the app: HTTP/2 stacks close a
// tunnel whose peer floods it with such (h2 0.4.16: about 100 that nobody has
// read). writer.mu is held.
func (s *Stream) crowded(fd uintptr) bool {
	if !s.tiny.Spent(tinyRate) {
		return false
	}
	waiting, err := unix.IoctlGetInt(int(fd), unix.SIOCINQ)
	return err == nil && waiting > 0 && waiting < tinySize
}

// appGone reports that the app broke its connection off while nobody was
// reading from it: its kernel answered something we sent, for instance a
// keepalive, with a reset. A hang-up without an error is not that: both ends
// have finished, and the stream may have yet to send what is left in the socket.
func (s *Stream) appGone() bool {
	s.toApp.mu.Lock()
	raw, known := s.toApp.raw, s.toApp.state >= receiverDeaf
	s.toApp.mu.Unlock()
	if raw == nil || known {
		return false
	}
	gone := false
	raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		gone = err == nil && n == 1 && fds[0].Revents&unix.POLLERR != 0
	})
	return gone
}

// stopReading wakes a pump whose bytes the peer no longer wants.
func (s *Stream) stopReading() {
	s.toApp.mu.Lock()
	defer s.toApp.mu.Unlock()
	if s.toApp.app != nil {
		s.rest.Stop(s.toApp.app)
	}
}
