// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// The leader is stuck as long as the peer does not read. The app of a stream that
// wrote is reset nonetheless, and whoever ends it, the tunnel's reader for one, is
// not stuck.
func TestStreamThatIsStuckLeadingCanBeReset(t *testing.T) {
	stuck, over := make(chan struct{}), make(chan struct{})
	l := greetedServer(t, func(p *rawPeer) {
		p.must(p.WriteWindowUpdate(0, 1<<30))
		for id := range uint32(2) {
			id = 2*id + 1
			p.until(is[*http2.MetaHeadersFrame])
			p.must(p.WriteWindowUpdate(id, 1<<30))
			p.must(p.writeHeaders(id, false, ":status", "200"))
		}
		<-stuck
		p.must(p.WriteRSTStream(1, http2.ErrCodeCancel))
		p.must(p.WriteData(3, false, []byte("still here")))
		<-over
	})
	defer close(over)
	a, b := l.open(), l.open()
	go func() {
		for chunk := make([]byte, 64<<10); ; {
			if _, err := a.Write(chunk); err != nil {
				return
			}
		}
	}()
	waitUntil(t, a.s.isStuckLeading())
	close(stuck)
	b.wantRead("still here")
	waitUntil(t, a.isGone)
}

// isStuckLeading reports that the tunnel's leader is stuck, and was lately.
func (s *Stream) isStuckLeading() func() bool {
	sent, since := uint64(0), time.Now()
	return func() bool {
		if now := s.sent.Load(); now != sent || !s.c.writer.busy() {
			sent, since = now, time.Now()
		}
		return sent > 0 && time.Since(since) > 200*time.Millisecond
	}
}

// isGone reports that the app's connection was reset.
func (a *app) isGone() bool {
	_, err := a.Write([]byte{0})
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func TestStreamsThatAreOverWaitForNoTurn(t *testing.T) {
	l, far := newPipe(t)
	first := l.open()
	<-far
	w := &first.s.c.writer
	window := w.setWindow(0)
	queued := func(a *app) func() bool {
		return func() bool {
			return a.s.stateOfSender() == senderQueued
		}
	}
	first.write("held back")
	waitUntil(t, queued(first))
	for range 10 {
		a := l.open()
		b := <-far
		a.write("never sent")
		waitUntil(t, queued(a))
		b.s.Reset()
		a.wait(t)
	}
	w.mu.Lock()
	n := w.small.n
	w.mu.Unlock()
	if n != 1 {
		t.Errorf("%d streams wait for their turn, want 1", n)
	}
	w.setWindow(window)
}

// setWindow sets what the peer lets us send in the whole tunnel.
func (w *writer) setWindow(n int) (before int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, w.window = w.window, n
	w.kick()
	return before
}

func (s *Stream) stateOfSender() senderState {
	s.c.writer.mu.Lock()
	defer s.c.writer.mu.Unlock()
	return s.state
}
