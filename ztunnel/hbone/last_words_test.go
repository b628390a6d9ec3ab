// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A web server that refuses a large request answers, closes the connection, and
// reads no more: its kernel sends a reset behind the answer. Whoever writes to the
// server hears of the reset while the answer still lies in the socket.
func TestAnAnswerArrivesBeforeTheResetBehindIt(t *testing.T) {
	rounds := 1000
	if testing.Short() {
		rounds = 200
	}
	for name, swap := range map[string]bool{"of a server": false, "of a client": true} {
		t.Run(name, func(t *testing.T) {
			l, far := newPipe(t)
			answer, lost := pattern(1, 1500), 0
			for range rounds {
				asks, answers := l.open(), <-far
				if swap {
					asks, answers = answers, asks
				}
				if got := refuse(t, asks, answers, answer); !bytes.Equal(got, answer) {
					lost++
				}
			}
			if lost > 0 {
				t.Errorf("%d of %d answers did not arrive", lost, rounds)
			}
		})
	}
}

// refuse has an app answer 10 bytes of 1,000 and break off, and returns what the
// other, which goes on writing, can read before the reset.
func refuse(t *testing.T, asks, answers *app, answer []byte) []byte {
	t.Helper()
	var both sync.WaitGroup
	both.Go(func() {
		answers.wantRead("1234567890")
		answers.do(answers.Write(answer))
		answers.SetLinger(0)
		answers.Close()
	})
	both.Go(func() {
		asks.write("1234567890")
		for i := 0; i < 99; i++ {
			if _, err := asks.Write(make([]byte, 10)); err != nil {
				return
			}
		}
	})
	asks.SetReadDeadline(time.Now().Add(patience))
	got, err := io.ReadAll(asks)
	both.Wait()
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read: %v", err)
	}
	return got
}

// The reset that follows an answer must not overtake what of it still waits, in the
// tunnel's end or in the kernel, for an app that reads late.
func TestAResetWaitsForAnAppThatReadsLate(t *testing.T) {
	l, far := newPipe(t)
	a, b, answer := l.openNarrow(), <-far, pattern(1, 600<<10)
	a.openWindowTo(b)
	b.do(b.Write(answer))
	waitUntil(t, func() bool { return b.s.Totals().Sent == uint64(len(answer)) && a.s.queuedBytes() > 0 })
	b.SetLinger(0)
	b.Close()
	waitUntil(t, a.s.isCut)
	got := make([]byte, len(answer))
	a.SetReadDeadline(time.Now().Add(patience))
	if n, err := io.ReadFull(a, got); err != nil || !bytes.Equal(got, answer) {
		t.Errorf("%d of %d bytes, or other ones, and then %v", n, len(answer), err)
	}
	a.wantReset()
	for _, end := range []*app{a, b} {
		if r := end.wait(t); !errors.Is(r.err, ErrReset) {
			t.Errorf("Carry returned %v, want %v", r.err, ErrReset)
		}
	}
}

// An app that does not read at all learns of the reset nevertheless.
func TestAResetDoesNotWaitForAnAppThatReadsNothing(t *testing.T) {
	t.Parallel() // it takes partingPatience
	l, far := newPipe(t)
	a, b := l.openNarrow(), <-far
	a.openWindowTo(b)
	b.do(b.Write(make([]byte, 600<<10)))
	waitUntil(t, func() bool { return a.s.queuedBytes() > 0 })
	b.SetLinger(0)
	b.Close()
	waitUntil(t, a.s.isCut)
	if r := a.wait(t); !errors.Is(r.err, ErrReset) || r.totals.Received == 600<<10 {
		t.Errorf("Carry returned %v after %d bytes", r.err, r.totals.Received)
	}
}

// Nor does it where the reset was there before the app: Carry had yet to be called.
func TestAResetDoesNotWaitForAnAppThatComesLateAndReadsNothing(t *testing.T) {
	t.Parallel() // it takes partingPatience
	l, far := newPipe(t)
	s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
	if err != nil {
		t.Fatal(err)
	}
	b := <-far
	s.c.openWindow(s.id, wideWindow)
	b.s.setWindow(wideWindow)
	b.do(b.Write(make([]byte, 600<<10)))
	waitUntil(t, func() bool { return s.queuedBytes() == 600<<10 })
	b.SetLinger(0)
	b.Close()
	waitUntil(t, s.isCut)
	if r := carryNarrow(t, s).wait(t); !errors.Is(r.err, ErrReset) || r.totals.Received == 600<<10 {
		t.Errorf("Carry returned %v after %d bytes", r.err, r.totals.Received)
	}
}

// Policy does not wait for anything.
func TestAStreamThatWasResetIsClosedAtOnceByPolicy(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.openNarrow(), <-far
	a.openWindowTo(b)
	b.do(b.Write(make([]byte, 600<<10)))
	waitUntil(t, func() bool { return a.s.queuedBytes() > 0 })
	b.s.Reset()
	waitUntil(t, a.s.isCut)
	a.s.Close(ErrDenied)
	if r := a.wait(t); r.err != ErrDenied {
		t.Errorf("Carry returned %v, want %v", r.err, ErrDenied)
	}
}

// An app whose peer takes no more is written to no longer once it broke off, and what
// the peer sends meanwhile is dropped.
func TestWhatComesForAnAppThatBrokeOffIsDropped(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.openNarrow(), <-far
	n := b.fill(a) // a's tunnel end holds bytes for it
	b.SetReadDeadline(time.Now().Add(patience))
	a.write("last words")
	b.wantRead("last words")
	window := a.s.setWindow(0)
	a.write(" and more")
	a.SetLinger(0)
	a.Close()
	waitUntil(t, func() bool { return a.s.toApp.is(receiverDeaf) })
	if held := a.s.queuedBytes(); held > 0 {
		t.Errorf("%d bytes are held for it", held)
	}
	more := make(chan error, 1)
	go func() {
		_, err := b.Write(make([]byte, 4*streamWindow)) // as much as it likes
		more <- err
	}()
	if err := <-more; err != nil {
		t.Errorf("the other app's write: %v", err)
	}
	a.s.setWindow(window)
	b.wantRead(" and more")
	b.wantReset()
	if got := a.wait(t).totals.Received; got >= uint64(n) {
		t.Errorf("%d bytes of %d are counted as received", got, n)
	}
}

// openNarrow is open for an app whose socket takes little.
func (l *link) openNarrow() *app {
	l.t.Helper()
	s, err := l.pool.Open(l.t.Context(), l.key, l.target(l.key))
	if err != nil {
		l.t.Fatal(err)
	}
	return carryNarrow(l.t, s)
}

func carryNarrow(t testing.TB, s *Stream) *app {
	near, far := socketPair(t)
	near.SetWriteBuffer(16 << 10)
	far.SetReadBuffer(16 << 10)
	return carryOn(t, s, near, far)
}

// openWindowTo lets b send a megabyte before a reads.
func (a *app) openWindowTo(b *app) {
	a.s.c.openWindow(a.s.id, wideWindow)
	b.s.setWindow(wideWindow)
}

// queuedBytes is what waits for the stream's app.
func (s *Stream) queuedBytes() int {
	s.toApp.mu.Lock()
	defer s.toApp.mu.Unlock()
	return s.toApp.waiting.size
}

func (s *Stream) isCut() bool { return s.toApp.is(receiverCut) }

// The peer resets a stream whose app broke off, and whose last words it does not take.
func TestAStreamThatBothAppsBrokeOffEndsAtOnce(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.openNarrow(), <-far
	b.fill(a) // a's tunnel end holds bytes for it
	a.s.setWindow(0)
	a.write("last words")
	a.SetLinger(0)
	a.Close()
	waitUntil(t, func() bool { return a.s.toApp.is(receiverDeaf) })
	b.s.Reset()
	if r := a.wait(t); !errors.Is(r.err, ErrReset) {
		t.Errorf("Carry returned %v, want %v", r.err, ErrReset)
	}
}
