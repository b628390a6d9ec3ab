// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"
)

// park has the tunnel tick twice, which parks a stream whose app has said all.
func (a *app) park() {
	a.t.Helper()
	waitUntil(a.t, func() bool {
		waiting, _ := a.s.c.writer.look(a.s)
		return waiting
	})
	a.tick()
	a.tick()
	waitUntil(a.t, a.s.rest.Parked)
}

// tick is one of the app's tunnel, which has heard of its peer meanwhile.
func (a *app) tick() {
	a.s.c.heard.Store(true)
	a.s.c.tick()
}

// parkUnticked is park without a PING for each tick, of which a peer bears only so many.
func (a *app) parkUnticked() {
	a.t.Helper()
	waitUntil(a.t, func() bool {
		a.s.rest.Ask(a.s.toApp.app)
		return a.s.rest.Parked()
	})
}

// parkedPair is two apps on both ends of a stream that has been used, and is parked at both.
func parkedPair(t testing.TB) (l *link, near, far *app) {
	t.Helper()
	l, apps := newPipe(t)
	near, far = l.open(), <-apps
	near.wantAliveWith(far)
	near.park()
	far.park()
	return l, near, far
}

func TestAParkedStreamCarriesOnAndParksAgain(t *testing.T) {
	_, near, far := parkedPair(t)
	for range 2 {
		near.wantAliveWith(far)
		near.park()
		far.park()
	}
	near.CloseWrite()
	far.wantEOF()
	far.write("last words")
	far.CloseWrite()
	near.wantRead("last words")
	near.wantEOF()
	for _, a := range []*app{near, far} {
		if r := a.wait(t); r.err != nil {
			t.Errorf("Carry: %v", r.err)
		}
	}
}

func TestAnIdleStreamIsParkedHalfwayToTheNextTick(t *testing.T) {
	t.Parallel()
	l, apps := newPipe(t)
	near, far := l.open(), <-apps
	near.wantAliveWith(far)
	waitUntil(t, func() bool { return near.s.c.writer.waits(near.s) })
	near.tick()
	for began := time.Now(); !near.s.rest.Parked(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > pingInterval*9/10 {
			t.Fatal("the next tick is awaited")
		}
	}
	near.wantAliveWith(far)
}

func TestAStreamThatSpeaksIsNotParked(t *testing.T) {
	l, apps := newPipe(t)
	near, far := l.open(), <-apps
	for range 4 {
		near.wantAliveWith(far)
		for _, a := range []*app{near, far} {
			a.tick()
			near.wantAliveWith(far)
			a.s.c.lookForIdle()
			if !a.s.rest.Awake() {
				t.Fatal("parked between two words")
			}
		}
	}
}

func TestWhatThePeerSaysReachesAnAppWhoseStreamStaysParked(t *testing.T) {
	_, near, far := parkedPair(t)
	far.write("there")
	near.wantRead("there")
	if !near.s.rest.Parked() {
		t.Error("woken for what the tunnel's reader does")
	}
}

func TestTheOtherSideMayFinishWhileAStreamIsParked(t *testing.T) {
	_, near, far := parkedPair(t)
	far.CloseWrite()
	near.wantEOF()
	near.write("more")
	far.wantRead("more")
	near.CloseWrite()
	far.wantEOF()
	if r := near.wait(t); r.err != nil {
		t.Error(r.err)
	}
}

// Each end of a stream finds it while it is parked, at both of its ends.
func TestAParkedStreamIsFoundByWhateverEndsIt(t *testing.T) {
	ours := errors.New("a policy of ours")
	for name, row := range map[string]struct {
		end       func(l *link, near, far *app)
		near, far error // what Carry returns
	}{
		"its app is reset":     {func(_ *link, near, _ *app) { reset(near.TCPConn) }, ErrReset, ErrReset},
		"the peer's app is":    {func(_ *link, _, far *app) { reset(far.TCPConn) }, ErrReset, ErrReset},
		"a policy":             {func(_ *link, near, _ *app) { near.s.Close(ours) }, ours, ErrReset},
		"a policy of the peer": {func(_ *link, _, far *app) { far.s.Close(ours) }, ErrReset, ours},
		"expiry":               {func(_ *link, near, _ *app) { near.s.c.fail(fmt.Errorf("%w: now", ErrExpired)) }, ErrExpired, ErrReset},
		"the tunnel is lost":   {func(_ *link, near, _ *app) { near.s.c.wire.Close() }, ErrReset, ErrReset},
		"the Pool's end":       {func(l *link, _, _ *app) { l.pool.Close() }, ErrDrained, ErrReset},
		"the Listener's end":   {func(l *link, _, _ *app) { l.ln.Close() }, ErrReset, ErrDrained},
	} {
		t.Run(name, func(t *testing.T) {
			l, near, far := parkedPair(t)
			row.end(l, near, far)
			if r := near.wait(t); !errors.Is(r.err, row.near) {
				t.Errorf("near: %v, want %v", r.err, row.near)
			}
			if r := far.wait(t); !errors.Is(r.err, row.far) {
				t.Errorf("far: %v, want %v", r.err, row.far)
			}
		})
	}
}

// A request whose answer takes its time: one side has finished, and nothing else is to be
// noticed there but the end.
func TestAHalfClosedStreamHasNoGoroutineAndEnds(t *testing.T) {
	l, apps := newPipe(t)
	near, far := l.open(), <-apps
	near.wantAliveWith(far)
	near.CloseWrite()
	far.wantEOF()
	waitUntil(t, func() bool {
		near.s.c.mu.Lock()
		defer near.s.c.mu.Unlock()
		return near.s.awaited
	})
	far.write("the answer")
	far.CloseWrite()
	near.wantRead("the answer")
	near.wantEOF()
	if r := near.wait(t); r.err != nil {
		t.Error(r.err)
	}
}

// How long the first byte of an app takes to the other app and back, beyond that of a
// stream with a goroutine. On a busy machine only the fastest tenth says something.
func BenchmarkFirstByte(b *testing.B) {
	for _, parks := range []bool{false, true} {
		b.Run(map[bool]string{false: "awake", true: "parked"}[parks], func(b *testing.B) {
			l, apps := newPipe(b)
			near, far := l.open(), <-apps
			go io.Copy(far, far)
			word := make([]byte, 64)
			near.Write(word)
			io.ReadFull(near, word)
			var took []time.Duration
			for b.Loop() {
				b.StopTimer()
				time.Sleep(2 * time.Millisecond) // both find an idle processor
				if parks {
					near.parkUnticked()
				}
				b.StartTimer()
				began := time.Now()
				near.Write(word)
				io.ReadFull(near, word)
				took = append(took, time.Since(began))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/10].Nanoseconds()), "ns/fast-op")
		})
	}
}
