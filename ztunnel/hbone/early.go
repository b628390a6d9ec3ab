// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"
	"net"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// earlyLimit is the most of an app that goes to a peer before its answer.
const earlyLimit = 16 << 10

// earlyBacklog is what may wait in a tunnel before it: a peer that reads nothing
// is not sent more for each stream that it refuses.
const earlyBacklog = 4 * earlyLimit

// early sends what an app says first along with its CONNECT, without waiting
// for the answer: once, and for good. A stream that then fails is not opened
// anew, for the peer may have passed the bytes on.
type early struct {
	app *net.TCPConn // nil: nothing is sent early
	raw syscall.RawConn

	s    *Stream // that it is sent on
	wait bool    // for the app, until the stream is answered or over
	sent bool
	err  error // of the app; io.EOF: it has said all
}

func newEarly(app *net.TCPConn) *early {
	e := &early{app: app}
	if app != nil {
		e.raw, e.err = app.SyscallConn()
	}
	return e
}

// follow sends the request of s, with the app's first bytes in the same write
// if they are there, and else behind it if they come before the answer. An app
// that waits for the other side to speak is not waited for.
func (e *early) follow(s *Stream) {
	e.s = s
	takes := e.app != nil && e.err == nil && s.takesEarly()
	if takes {
		e.read(false)
	}
	s.flush()
	if takes && !e.sent && e.err == nil && s.listen(e.app) {
		e.read(true)
		s.listen(nil)
		e.app.SetReadDeadline(time.Time{})
		s.flush()
	}
	if e.err != nil && e.err != io.EOF { // the end of what it says, Carry will find again
		s.appFailed(e.err)
	}
}

// takesEarly reports whether the peer may have bytes before its answer: one
// that has accepted our certificate, and was heard lately. A tunnel that only
// looks alive would take them with it.
func (s *Stream) takesEarly() bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.settled && s.c.missed == 0
}

func (e *early) read(wait bool) {
	e.wait = wait
	e.raw.Read(e.readSome)
}

// readSome reads once, and queues a frame behind the request.
func (e *early) readSome(fd uintptr) bool {
	s, c := e.s, e.s.c
	c.mu.Lock()
	defer c.mu.Unlock()
	most := min(earlyLimit, s.sendWindow, c.sending.window, c.peerFrame)
	if most <= 0 || s.over || len(c.control) > earlyBacklog {
		return true
	}
	buf := buffers.Take(most)
	defer buf.Release()
	n, err := socket.Read(fd, buf.Bytes[:most])
	switch {
	case n > 0:
		c.control = append(appendFrame(c.control, n, kindData, 0, s.id), buf.Bytes[:n]...)
		s.sendWindow -= n
		c.sending.window -= n
		s.sent.Add(uint64(n))
		e.sent = true
	case err == syscall.EAGAIN:
		return !e.wait
	case err == nil:
		e.err = io.EOF
	default:
		e.err = err
	}
	return true
}

// listen has app waken when the stream is answered or over, unless that is so
// already; with nil, no more.
func (s *Stream) listen(app *net.TCPConn) bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.listening = app
	return !s.over && !s.accepted
}

// wake wakes who waits for the app's first bytes; conn.mu is held.
func (s *Stream) wake() {
	if s.listening != nil {
		s.listening.SetReadDeadline(time.Unix(1, 0))
	}
}

// flush has the request sent.
func (s *Stream) flush() {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	s.c.flush()
}
