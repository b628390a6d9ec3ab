// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// What an app sent before it broke off reaches the other app before the reset does,
// as it would without us:
//
//   - Our app broke off. Whoever writes to it learns that first, from a socket in
//     which the app's last bytes may still lie: the kernel keeps them behind a reset.
//     So appBroke only makes the receiver deaf. The pump reads to the end of the
//     socket, and then resets the stream.
//   - The peer reset the stream. cut has the receiver finish what came before, in the
//     queue and in the kernel, for a reset of the app's socket discards both. Then part
//     resets the app.
//
// Either waits only as long as bytes move.

const (
	partingPatience = 5 * time.Second      // without progress of a cut stream's app
	partingPause    = 5 * time.Millisecond // between two looks at it
	unmovedTicks    = 2                    // of the tunnel, without progress of a stream whose app broke off
)

// appBroke notes that the app takes no more: it broke the connection. The stream
// ends when the pump has read what the app sent before, at once if it has.
func (s *Stream) appBroke(err error) {
	dropped := s.toApp.deafen()
	s.c.granted(s, dropped, -dropped)
	if !s.c.writer.readOut(s, err) {
		s.appFailed(err)
	}
}

// readOut notes that a stream's app broke off, and reports whether something that the
// app sent before may be left to be read.
func (w *writer) readOut(s *Stream, broke error) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !s.sends() {
		return false
	}
	if s.broke == nil {
		s.broke = broke
		s.sentBefore = s.sent.Load()
	}
	return true
}

// unmoved reports, at a tick of the tunnel, that the app broke off and nothing of what
// it sent before could be passed on for long: the peer's app does not read. writer.mu
// is held.
func (s *Stream) unmoved() bool {
	if s.broke == nil {
		return false
	}
	if sent := s.sent.Load(); sent != s.sentBefore {
		s.sentBefore, s.idleTicks = sent, 0
		return false
	}
	s.idleTicks++
	return s.idleTicks > unmovedTicks
}

// cut ends a stream that the peer reset, for the given cause. The stream is closed
// then, and over as soon as its app has what came before. conn.mu is held.
func (c *conn) cut(s *Stream, cause error) {
	s.cause = cause
	c.writer.stop(s)
	s.gotEnd, s.endSent = true, true
	c.uncount(s)
}

// part resets the app of a stream that was cut, once the kernel has passed on all that
// was written.
func (s *Stream) part() {
	if s.unsent() == 0 {
		s.finishCut()
		return
	}
	go func() {
		var progress socket.Progress
		for left := s.unsent(); left > 0 && !s.toApp.is(receiverSevered) && progress.Stood(left) < partingPatience; left = s.unsent() {
			time.Sleep(partingPause)
		}
		s.finishCut()
	}()
}

// finishCut ends a stream that was cut, and resets its app.
func (s *Stream) finishCut() {
	s.c.mu.Lock()
	s.c.end(s, s.cause)
	s.c.unlock()
}

// unsent is how many bytes the app's kernel has not acknowledged: none, if the
// connection is no more.
func (s *Stream) unsent() int {
	raw := s.toApp.socket()
	if raw == nil { // nothing came before the reset, and the app is yet to come
		return 0
	}
	left, gone := unheard(raw)
	if gone {
		return 0
	}
	return left
}

// sever cuts the app off from a stream that was broken off, with a TCP
// reset. No lock is held. To close the socket would wait for whoever leads in
// serve, perhaps for long; and the reader, which calls sever too, must not.
func (s *Stream) sever() {
	app, raw, dropped, first := s.toApp.sever()
	if !first {
		return
	}
	s.c.granted(s, 0, -dropped)
	if app != nil {
		raw.Control(func(fd uintptr) { socket.Reset(fd) })
		app.SetWriteDeadline(time.Unix(1, 0))
		s.rest.Stop(app) // Carry closes it
	}
}
