// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// earlyLimit is the most of an app that goes to a peer before its answer.
const earlyLimit = 16 << 10

// earlyBacklog is what may wait in a tunnel before it: a peer that reads nothing
// is not sent more for each stream that it refuses.
const earlyBacklog = 4 * earlyLimit

// early sends what an app says first along with its CONNECT, without waiting for
// the answer. Until that it keeps it: if the peer says that it did nothing for the
// stream, another takes its place and gets the same. What is kept counts in the pod's
// Memory; over its share a pod says nothing early.
type early struct {
	app *net.TCPConn // nil: nothing is sent early
	raw syscall.RawConn

	s    *Stream // that it is sent on
	wait bool    // for the app, until the stream is answered or over
	done bool    // with s: all that may go early was sent
	kept []byte  // what the app said
	err  error   // of the app; io.EOF: it has said all
}

func newEarly(app *net.TCPConn) *early {
	e := &early{app: app}
	if app != nil {
		e.raw, e.err = app.SyscallConn()
	}
	return e
}

// follow sends the request of s. In a tunnel that was heard lately the app's first
// bytes are in the same write if they are there, and else behind it if they come
// before the answer. Another tunnel is asked along with the request whether it is
// alive, and gets them when it is. An app that waits for the other side to speak is
// not waited for.
func (e *early) follow(ctx context.Context, s *Stream) {
	e.s, e.done = s, false
	s.present(e.kept)
	if e.wanted() {
		e.send(false)
	}
	s.c.writer.run()
	if e.wanted() { // and may have to be waited for
		defer context.AfterFunc(ctx, func() { s.giveUp(context.Cause(ctx)) })()
	}
	for e.wanted() && s.proven() {
		e.send(true)
		s.c.writer.run()
	}
	if e.err != nil && e.err != io.EOF { // the end of what it says, Carry will find again
		s.appFailed(e.err)
	}
}

// last is the error of an OpenFor that ends here, for want of another tunnel. What was
// read of the app ends with it: so it must not look as if nobody had been asked.
func (e *early) last(t Target, err error) error {
	if len(e.kept) > 0 && errors.Is(err, ErrDial) {
		return &NoAnswerError{t.Authority, err}
	}
	return err
}

// letGo is the end of an OpenFor: what was kept counts no longer in the pod's Memory,
// which is that of all tunnels of its Pool. If some of it is yet to be sent, it does
// until then.
func (e *early) letGo() {
	if len(e.kept) == 0 {
		return
	}
	s, c := e.s, e.s.c
	c.mu.Lock()
	defer c.unlock()
	c.writer.keep(s, len(e.kept), s.accepted && !s.over)
}

// keep has n bytes of Memory, which a stream holds for readEarly, given back when
// nothing of that is yet to be sent: at once, unless the stream sends.
func (w *writer) keep(s *Stream, n int, sends bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.kept = n
	if !sends || len(s.readEarly) == 0 {
		w.letGoKept(s)
	}
}

// letGoKept gives back to Memory what a stream has of it for readEarly; mu is held.
func (w *writer) letGoKept(s *Stream) {
	if s.kept > 0 {
		w.c.memory.hold(-s.kept)
		s.kept = 0
	}
}

// wanted reports that something may yet go early.
func (e *early) wanted() bool { return e.app != nil && e.err == nil && !e.done }

// present gives the stream what was kept. If its tunnel may be dead, it queues a PING
// behind the request.
func (s *Stream) present(kept []byte) {
	s.c.mu.Lock()
	defer s.c.unlock()
	s.c.writer.keepEarly(s, kept)
	if s.c.settled && !s.c.fresh() && !s.over {
		s.c.ask()
	}
}

// send sends what was kept, or else reads it from the app. That may do nothing, if
// the tunnel is to prove itself first.
func (e *early) send(wait bool) {
	switch {
	case len(e.kept) > 0:
		e.s.c.mu.Lock()
		defer e.s.c.unlock()
		e.offer()
	case !wait:
		e.wait = false
		e.raw.Read(e.readSome)
	case e.s.listen(e.app):
		e.wait = true
		e.raw.Read(e.readSome)
		e.s.listen(nil)
		e.app.SetReadDeadline(time.Time{})
	}
}

// readSome reads once from the app.
func (e *early) readSome(fd uintptr) bool {
	c := e.s.c
	c.mu.Lock()
	defer c.unlock()
	if !e.mayOffer() {
		return true
	}
	if c.memory.overdrawn() {
		e.done = true
		return true
	}
	buf := buffers.Take(earlyLimit)
	defer buf.Release()
	n, err := socket.ReadInline(fd, buf.Bytes[:earlyLimit])
	switch {
	case n > 0:
		e.kept = bytes.Clone(buf.Bytes[:n])
		c.memory.hold(n)
		c.writer.keepEarly(e.s, e.kept)
		e.offer()
	case err == syscall.EAGAIN:
		return !e.wait
	case err == nil:
		e.err = io.EOF
	default:
		e.err = err
	}
	return true
}

// mayOffer reports whether the tunnel takes something early now; conn.mu is held.
func (e *early) mayOffer() bool {
	s, c := e.s, e.s.c
	if s.over || s.accepted || !c.settled || !c.fresh() {
		return false
	}
	e.done = !c.writer.takesEarly(s)
	return !e.done
}

// offer queues a frame behind the request; what the windows do not let through
// follows the answer. conn.mu is held.
func (e *early) offer() {
	if !e.mayOffer() {
		return
	}
	e.s.c.writer.queueEarly(e.s)
	e.done = true
}

// keepEarly is what the app has said, and what the stream sends before it reads more.
func (w *writer) keepEarly(s *Stream, said []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.readEarly = said
}

// takesEarly reports whether queueEarly would queue something.
func (w *writer) takesEarly(s *Stream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return min(s.sendWindow, w.window) > 0 && len(w.control) <= earlyBacklog
}

// queueEarly queues a frame of what the app said early. If others have used the window up
// meanwhile, that follows the answer.
func (w *writer) queueEarly(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(s.readEarly), s.sendWindow, w.window, w.peerFrame)
	if n <= 0 {
		return
	}
	w.control = append(h2.AppendFrame(w.control, n, h2.KindData, 0, s.id), s.readEarly[:n]...)
	s.readEarly = s.readEarly[n:]
	s.sendWindow -= n
	w.spend(n)
	s.sent.Add(uint64(n))
}

// listen makes wake wake app when the stream is answered or over, and reports whether
// that is yet to come; nil ends it.
func (s *Stream) listen(app *net.TCPConn) bool {
	s.c.mu.Lock()
	defer s.c.unlock()
	s.listening = app
	return !s.over && !s.accepted
}

// wake wakes whoever waits for the app's first bytes; conn.mu is held.
func (s *Stream) wake() {
	if s.listening != nil {
		s.listening.SetReadDeadline(time.Unix(1, 0))
	}
}
