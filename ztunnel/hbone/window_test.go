// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"io"
	"testing"
	"testing/synctest"
	"time"
)

// windowOf is a stream of a tunnel that has no peer, whose app takes 3/4 of the window
// again and again, each time in pause.
type windowOf struct {
	c *conn
	s *Stream
}

func newWindow(m *Memory, roundTrip time.Duration) windowOf {
	c := newConn(false, nowhere{}, proof{}, &hooks{})
	c.rtt.last, c.rtt.asked = roundTrip, time.Now()
	c.memory = m
	c.writer.leading = true // nobody writes
	c.mu.Lock()
	defer c.mu.Unlock()
	return windowOf{c, newStream(c, 1, proof{}.local)}
}

// take has the app take most of a window after a pause, many times.
func (w windowOf) take(pause time.Duration) (limit int) {
	for range 20 {
		time.Sleep(pause)
		n := w.s.limit / 4 * 3
		w.s.window -= n
		w.c.granted(w.s, n, 0)
	}
	return w.s.limit
}

// An app that reads gets a larger window, and on a long way, where it is the window
// that holds the stream back, the largest. One that no longer does gets a small one.
func TestWindowFollowsHowFastTheAppReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newBudgetOfBytes(1 << 30).share()
		w := newWindow(m, 50*time.Millisecond)
		for _, test := range []struct {
			pause time.Duration
			want  int
		}{
			{10 * time.Millisecond, widestWindow},
			{2 * time.Second, streamWindow},
			{99 * time.Millisecond, widestWindow},
			{500 * time.Millisecond, widestWindow}, // not slow enough to lose it
			{2 * time.Second, streamWindow},
			{500 * time.Millisecond, streamWindow}, // not fast enough to need one
		} {
			if got := w.take(test.pause); got != test.want {
				t.Errorf("a window each %v: it is %d bytes, want %d", test.pause, got, test.want)
			}
			if got := m.lent.Held(); got != int64(w.s.limit-streamWindow) {
				t.Errorf("%d bytes are lent for a window of %d", got, w.s.limit)
			}
			if got := w.s.window + w.s.unacked; got != w.s.limit {
				t.Errorf("the peer may send %d bytes in a window of %d", got, w.s.limit)
			}
		}
		near := newWindow(m, time.Microsecond)
		if got := near.take(10 * time.Millisecond); got != wideWindow {
			t.Errorf("on a short way the window is %d bytes, want %d", got, wideWindow)
		}
		near.c.mu.Lock()
		near.c.end(near.s, nil)
		w.c.end(w.s, nil)
		near.c.mu.Unlock()
		if left := m.lent.Held(); left != 0 {
			t.Errorf("%d bytes are lent to streams that are over", left)
		}
	})
}

// What is in a tunnel's window cannot be refused any more.
func TestTunnelsWindowIsLargeWhereMuchComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWindow(newBudgetOfBytes(64<<20).share(), 20*time.Microsecond)
		for range 40 {
			time.Sleep(time.Millisecond)
			w.c.receiving.window = w.c.receiving.limit / 4 * 3
			w.c.grantTunnel()
		}
		if got := w.c.receiving.limit; got != largestTunnelWindow {
			t.Errorf("a quarter each millisecond: the window is %d bytes, want %d", got, largestTunnelWindow)
		}
	})
}

func TestTunnelsWindowIsLargeOnlyWhereItHoldsTheStreamsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := newBudgetOfBytes(64 << 20)
		w, others := newWindow(budget.share(), 50*time.Millisecond), budget.share()
		take := func(pause time.Duration) int {
			for range 40 { // a quarter of the window, again and again
				time.Sleep(pause)
				w.c.receiving.window = w.c.receiving.limit / 4 * 3
				w.c.grantTunnel()
			}
			return w.c.receiving.limit
		}
		for _, test := range []struct {
			pause  time.Duration
			others int // bytes that another pod holds
			held   int
			want   int
		}{
			{20 * time.Millisecond, 0, 0, largestTunnelWindow},
			{100 * time.Millisecond, 0, 0, largestTunnelWindow},
			{time.Second, 0, 0, tunnelWindow},
			{100 * time.Millisecond, 0, 0, tunnelWindow},
			{20 * time.Millisecond, 0, 0, largestTunnelWindow},
			{20 * time.Millisecond, 100 << 20, 0, largestTunnelWindow},
			{20 * time.Millisecond, 0, 3 << 20, tunnelWindow}, // of what the other leaves
		} {
			others.hold(test.others)
			w.c.memory.hold(test.held)
			if got := take(test.pause); got != test.want {
				t.Errorf("a quarter each %v, %d bytes held by others and %d: the window is %d bytes, want %d", test.pause, test.others, test.held, got, test.want)
			}
		}
	})
}

func TestWindowsGrowNoFurtherThanMemoryLends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudgetOfBytes(8 << 20)
		greedy, modest := b.share(), b.share()
		var most int
		for range 50 {
			most = max(most, newWindow(greedy, 0).take(time.Millisecond))
		}
		if most != wideWindow {
			t.Errorf("the widest window is %d", most)
		}
		if used := b.lent.Used(); used > b.lent.Size() || used < b.lent.Size()/2 {
			t.Errorf("%d bytes are lent of %d", used, b.lent.Size())
		}
		if got := newWindow(modest, 0).take(time.Millisecond); got == streamWindow {
			t.Error("nothing is left for another pod")
		}
	})
}

// A stream that says nothing holds no part of Memory, and gets it back with its voice.
func TestSilentStreamsHoldNothingOfMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudgetOfBytes(8 << 20)
		m := b.share()
		w := newWindow(m, 0)
		w.take(time.Millisecond)
		w.c.repayIdle(time.Now())
		if got := m.lent.Held(); got != wideWindow-streamWindow {
			t.Errorf("%d bytes are lent to a stream that speaks", got)
		}
		w.c.repayIdle(time.Now().Add(pingInterval))
		if got := m.lent.Held(); got != 0 {
			t.Errorf("%d bytes are lent to a stream that is silent", got)
		}
		if got := w.take(time.Millisecond); got != wideWindow || m.lent.Held() != int64(got-streamWindow) {
			t.Errorf("then the window is %d bytes, of which %d are lent", got, m.lent.Held())
		}
		w.c.repayIdle(time.Now().Add(pingInterval))
		for range 10 { // others, who have it all
			other := m.of.share()
			other.lent.Add(other.lent.Share(0))
		}
		if got := w.take(time.Millisecond); got != streamWindow {
			t.Errorf("without Memory the window is %d bytes", got)
		}
	})
}

// What a peer sent to an app that does not read is held, and not lent as well. When the
// app reads again the window is as wide as before.
func TestStalledStreamsAreLentWhatTheirPeersMayStillSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newBudgetOfBytes(8 << 20).share()
		w := newWindow(m, 0)
		w.take(time.Millisecond)
		sent := 0
		for _, test := range []struct{ sends, want int }{
			{wideWindow / 2, wideWindow/2 - streamWindow},
			{wideWindow/2 - streamWindow, 0},
			{streamWindow, 0},
		} {
			w.s.window -= test.sends
			sent += test.sends
			w.c.granted(w.s, 0, test.sends)
			w.c.repayIdle(time.Now().Add(pingInterval))
			if got := m.lent.Held(); got != int64(test.want) {
				t.Errorf("%d bytes are lent to a stream that holds %d, want %d", got, sent, test.want)
			}
		}
		time.Sleep(500 * time.Millisecond) // neither fast nor slow
		w.c.granted(w.s, sent, -sent)
		if w.s.window != wideWindow || m.lent.Held() != wideWindow-streamWindow {
			t.Errorf("then the window is %d bytes, of which %d are lent", w.s.window, m.lent.Held())
		}
	})
}

// A peer whose windows are as wide as they get leaves its pod's other peers room.
func TestOnePeersWindowsDoNotKeepThoseOfOthersSmall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newBudgetOfBytes(16 << 20).share()
		for range 50 {
			w := newWindow(m, 0)
			w.c.payer = clientID
			w.take(time.Millisecond)
		}
		w := newWindow(m, 0)
		w.c.payer = otherID
		if got := w.take(time.Millisecond); got != wideWindow {
			t.Errorf("another peer's window is %d bytes, want %d", got, wideWindow)
		}
		w.c.mu.Lock()
		w.c.end(w.s, nil)
		w.c.mu.Unlock()
		if _, left := m.peers[otherID]; left {
			t.Error("a peer to whom nothing is lent is remembered")
		}
	})
}

func (a *app) take(n int64) {
	a.t.Helper()
	if _, err := io.CopyN(io.Discard, a, n); err != nil {
		a.t.Fatal(err)
	}
}
