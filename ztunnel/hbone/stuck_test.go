// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// deafServer is a raw peer that answers the first stream and reads no more, until
// the test is over.
func deafServer(t *testing.T) *link {
	over := make(chan struct{})
	l := greetedServer(t, func(p *rawPeer) {
		p.must(p.WriteWindowUpdate(0, 1<<30))
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.WriteWindowUpdate(id, 1<<30))
		p.must(p.writeHeaders(id, false, ":status", "200"))
		<-over
	})
	t.Cleanup(func() { close(over) })
	return l
}

// flood has an app say more than its tunnel takes.
func (a *app) flood() {
	a.t.Helper()
	go func() {
		for chunk := make([]byte, 64<<10); ; {
			if _, err := a.Write(chunk); err != nil {
				return
			}
		}
	}()
	waitUntil(a.t, a.s.isStuckLeading())
}

// What policy forbids is recorded as that, and now, not when the peer reads again.
func TestStreamThatIsClosedInAStuckTunnelEndsAtOnce(t *testing.T) {
	l := deafServer(t)
	a := l.open()
	a.flood()
	watch := env.NewStopwatch()
	a.s.Close(ErrDenied)
	if r := a.wait(t); !errors.Is(r.err, ErrDenied) || r.totals.Sent == 0 {
		t.Errorf("%+v", r)
	}
	if took := watch.Elapsed(); took > patience/2 {
		t.Errorf("it took %v", took)
	}
	waitUntil(t, a.isGone)
}

// deaf makes a raw peer of the bubble's pool that answers one stream and then
// reads nothing. Writing to its pipe waits at once.
func (b *bubble) deaf() *rawPeer {
	p := b.raw(true)
	go func() {
		io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
		p.alone(func() error { return p.WriteSettings() })
		var asked, known bool // in either order
		p.until(func(f http2.Frame) bool {
			settings, _ := f.(*http2.SettingsFrame)
			asked, known = asked || is[*http2.MetaHeadersFrame](f), known || settings != nil && settings.IsAck()
			return asked && known
		})
		p.alone(func() error { return p.writeHeaders(1, false, ":status", "200") })
	}()
	return p
}

func (b *bubble) openWithin(d time.Duration) (*Stream, error) {
	ctx, cancel := context.WithTimeout(b.t.Context(), d)
	defer cancel()
	return b.pool.Open(ctx, b.key, Target{Authority: b.key.Addr})
}

func TestOpenInAStuckTunnelKeepsItsDeadline(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.deaf()
		if _, err := b.openWithin(time.Second); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		_, err := b.openWithin(100 * time.Millisecond)
		if took := time.Since(begin); took != 100*time.Millisecond || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// A peer that does not read may still speak, so that no PING is missed.
func TestTunnelThatTakesNothingIsLeftAndThenEnds(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.deaf()
		s, err := b.openWithin(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		defer close(over)
		go p.mumble(over)
		pass(pingInterval) // after which a PING waits for the peer to read it
		begin := time.Now()
		pass(stuckPause)
		b.pool.connect = func(context.Context, Key) (net.Conn, error) { return b.dial() }
		if near, _ := b.open(); near.c == s.c {
			t.Error("a new stream is in the stuck tunnel")
		}
		pass(time.Until(begin.Add(stuckLimit - time.Second)))
		wantOpen(t, s)
		pass(pingInterval)
		wantEnd(t, s, ErrReset)
	})
}

// mumble says something every second that wants no answer.
func (p *rawPeer) mumble(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(time.Second):
			if p.alone(func() error { return p.WriteWindowUpdate(0, 1) }) != nil {
				return
			}
		}
	}
}

func TestSlowTunnelIsNotTakenForAStuckOne(t *testing.T) {
	l, far := newPipe(t)
	a := l.open()
	(<-far).Close()
	c := a.s.c
	now := time.Now()
	c.writer.setBlocked(now.Add(-2 * stuckLimit)) // and yet it sent something a moment ago
	c.mu.Lock()
	if d := c.stuckFor(now); d >= patience {
		t.Errorf("stuck for %v", d)
	}
	c.mu.Unlock()
	c.writer.setBlocked(time.Time{})
}

func TestKernelGivesAStuckTunnelUpWhenWeDo(t *testing.T) {
	l := newLink(t, nil)
	a := l.open()
	a.s.c.rtt.socket.Control(func(fd uintptr) {
		if ms, err := unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); err != nil || int64(ms) != stuckLimit.Milliseconds() {
			t.Errorf("TCP_USER_TIMEOUT %d, %v", ms, err)
		}
	})
}

// The kernel asks again and again whether a closed window has opened, and is answered.
func TestClosedWindowIsSeenAsStuck(t *testing.T) {
	l := deafServer(t)
	a := l.open()
	a.flood()
	waitUntil(t, func() bool {
		a.s.c.mu.Lock()
		defer a.s.c.mu.Unlock()
		return a.s.c.stuckFor(time.Now()) >= stuckPause
	})
	l.open()
	if stats := l.pool.Stats(); stats.Tunnels != 2 {
		t.Errorf("%+v", stats)
	}
}

func TestAcceptDoesNotWaitForAPeerThatReadsNothing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(false)
		go func() {
			io.WriteString(p.conn, h2.Preface)
			p.alone(func() error { return p.WriteSettings() })
		}()
		p.until(func(f http2.Frame) bool {
			s, ok := f.(*http2.SettingsFrame)
			return ok && s.IsAck()
		})
		begin := time.Now()
		p.connectTo(1, b.key.Addr)
		<-b.arrived // when Accept has returned
		if took := time.Since(begin); took != 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// What waits for a peer that reads nothing is the pod's, like what waits for its apps,
// until the peer reads it or the tunnel ends.
func TestABatchThatItsPeerDoesNotReadIsHeldByThePod(t *testing.T) {
	over, reads := make(chan struct{}), make(chan struct{})
	defer close(over)
	l := greetedServer(t, func(p *rawPeer) {
		p.must(p.WriteWindowUpdate(0, 1<<30))
		id := p.until(is[*http2.MetaHeadersFrame]).Header().StreamID
		p.must(p.WriteWindowUpdate(id, 1<<30))
		p.must(p.writeHeaders(id, false, ":status", "200"))
		<-reads
		io.Copy(io.Discard, p.conn)
		<-over
	})
	a := l.open()
	budget := newBudgetOfBytes(64 << 20)
	c := a.s.c
	c.setMemory(budget.share())
	a.flood()
	if held, batch := budget.held.Used(), c.blockedBatch(); batch == 0 || held != int64(batch) {
		t.Errorf("the pod holds %d bytes, a batch of %d waits", held, batch)
	}
	a.CloseWrite()
	close(reads)
	waitUntil(t, func() bool { return c.blockedBatch() == 0 && budget.held.Used() == 0 })
}

func TestABatchIsHeldNoLongerThanItsTunnelIsThere(t *testing.T) {
	l := deafServer(t)
	a := l.open()
	budget := newBudgetOfBytes(64 << 20)
	a.s.c.setMemory(budget.share())
	a.flood()
	if budget.held.Used() == 0 {
		t.Error("a batch waits, and the pod holds nothing")
	}
	a.s.c.abort(ErrDrained)
	waitUntil(t, func() bool { return budget.held.Used() == 0 })
}

// However many peers read nothing, what they have the pod hold leaves room for its apps.
func TestBatchesAreSmallWhereThePodHoldsMuch(t *testing.T) {
	for _, test := range []struct{ held, least, most int64 }{
		{0, 64 << 10, record.BatchSize + 8<<10},
		{14 << 20, 1, 18 << 10}, // of 32 MiB; less buffer than that there is not for a whole record
	} {
		l := deafServer(t)
		a := l.open()
		budget := newBudgetOfBytes(64 << 20)
		memory := budget.share()
		memory.hold(int(test.held))
		a.s.c.setMemory(memory)
		a.flood()
		if batch := memory.held.Held() - test.held; batch < test.least || batch > test.most {
			t.Errorf("a pod that holds %d bytes has a batch of %d wait", test.held, batch)
		}
		a.s.c.abort(ErrDrained)
	}
}

func (w *writer) setBlocked(since time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.blockedAt = since
}

func (c *conn) blockedBatch() int {
	c.writer.mu.Lock()
	defer c.writer.mu.Unlock()
	return c.writer.blockedIn
}
