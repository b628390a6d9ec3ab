// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"io"
	"testing"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// pusher is a client that sends as much as the tunnel's window lets it, and counts.
type pusher struct {
	*rawPeer
	window int // the tunnel's
	reset  int // streams that were reset
}

func (l *link) newPusher() *pusher {
	p := l.rawClient()
	p.do(io.WriteString(p.conn, h2.Preface))
	p.must(p.WriteSettings())
	s := &pusher{rawPeer: p, window: h2.DefaultWindow}
	s.sync()
	return s
}

// sync reads what the other end said to all that was sent.
func (s *pusher) sync() {
	s.t.Helper()
	s.must(s.WritePing(false, [8]byte{'s'}))
	s.read(is[*http2.PingFrame])
}

// read reads up to the first frame that matches.
func (s *pusher) read(match func(http2.Frame) bool) {
	s.t.Helper()
	s.until(func(f http2.Frame) bool {
		switch f := f.(type) {
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				s.window += int(f.Increment)
			}
		case *http2.RSTStreamFrame:
			s.reset++
		}
		return match(f)
	})
}

// send sends n bytes on a stream, or as many as the tunnel's window has room for.
func (s *pusher) send(id uint32, n int) (sent int) {
	s.t.Helper()
	for sent < n {
		if s.window == 0 {
			if s.sync(); s.window == 0 {
				break
			}
		}
		m := min(s.window, n-sent, h2.FrameLimit)
		s.must(s.WriteData(id, false, make([]byte, m)))
		s.window -= m
		sent += m
	}
	return sent
}

// openWide opens a stream and lets the peer send a megabyte on it.
func (s *pusher) openWide(l *link, id uint32) {
	s.t.Helper()
	s.must(s.connect(id))
	s.read(is[*http2.MetaHeadersFrame])
	l.ln.all()[0].openWindow(id, wideWindow)
}

// Apps that do not read leave the tunnel to all others, however many they are.
func TestStalledStreamsDoNotStopTheirTunnel(t *testing.T) {
	const stalled = 60
	l := newLink(t, func(s *Stream) { s.Accept(); <-s.Done(); s.Reset() })
	p := l.newPusher()
	for i := range uint32(stalled) {
		id := 1 + 2*i
		p.openWide(l, id)
		if sent := p.send(id, wideWindow); sent < wideWindow {
			t.Fatalf("after %d streams the tunnel takes no more: %d bytes of the next", i, sent)
		}
	}
	c := l.ln.all()[0]
	waitUntil(t, func() bool { return c.heldBytes() == stalled*wideWindow })
	c.abort(ErrDrained)
}

// A pod whose apps read nothing holds its share. What else is sent to them waits in
// their peers, and goes on when they read; nothing is lost.
func TestBytesOverAPodsShareWaitInItsPeers(t *testing.T) {
	streams := make(chan *Stream, 64)
	l := newLink(t, func(s *Stream) { s.Accept(); streams <- s })
	p := l.newPusher()
	budget := newBudgetOfBytes(64 << 20)
	share := budget.share().held.Share(0)
	c := l.ln.all()[0]
	c.setMemory(budget.share())
	total, id, rest := 0, uint32(1), 0
	for ; rest == 0; id += 2 {
		p.openWide(l, id)
		sent := p.send(id, wideWindow)
		total, rest = total+sent, wideWindow-sent
	}
	if held := int64(c.heldBytes()); held < share || held > share+largestTunnelWindow {
		t.Errorf("%d bytes are held, the pod's share is %d", held, share)
	}
	if p.reset > 0 {
		t.Errorf("%d streams were reset", p.reset)
	}
	var got int64
	for range id / 2 {
		s := <-streams
		a := carry(t, s)
		if s.id == id-2 { // the one that waits
			if sent := p.send(s.id, rest); sent != rest {
				t.Fatalf("%d bytes of %d are taken although apps read", sent, rest)
			}
			total += rest
		}
		a.take(wideWindow)
		got += wideWindow
	}
	if got != int64(total) {
		t.Errorf("%d of %d bytes arrived", got, total)
	}
	waitUntil(t, func() bool { return budget.held.Used() == 0 })
	c.abort(ErrDrained)
}

// The last means: when what was on its way when the share was used up fills the whole
// budget, the stream that gets more is reset, with a reason that names the pod's apps.
func TestStreamIsResetWhenTheWholeBudgetIsHeld(t *testing.T) {
	served := make(chan *Stream, 2)
	l := newLink(t, func(s *Stream) { s.Accept(); served <- s })
	p := l.newPusher()
	budget := newBudgetOfBytes(1 << 20)
	other := budget.share()
	c := l.ln.all()[0]
	c.setMemory(budget.share())
	p.openWide(l, 1)
	p.openWide(l, 3)
	p.send(1, wideWindow)
	p.sync()
	p.sync() // what came with a PING is judged after its answer
	if p.reset != 1 {
		t.Errorf("%d streams were reset, want one", p.reset)
	}
	first, second := <-served, <-served
	if first.id != 1 {
		first, second = second, first
	}
	<-first.Done()
	if err := first.result(); !errors.Is(err, ErrLimit) {
		t.Errorf("it ended with %v, want %v", err, ErrLimit)
	}
	waitUntil(t, func() bool { return c.heldBytes() == 0 })
	if other.hold(1); other.exhausted() || other.overdrawn() {
		t.Error("another pod is to blame")
	}
	p.send(3, 1000)
	waitUntil(t, func() bool { return c.heldBytes() == 1000 })
	second.Reset()
	first.Reset()
}

// A peer that has a pod hold all that it may does not have the streams of others reset,
// which need a moment of their own.
func TestAPeerThatHoldsMuchHasNobodyElseReset(t *testing.T) {
	l := newLink(t, func(s *Stream) { s.Accept(); <-s.Done(); s.Reset() })
	budget := newBudgetOfBytes(1 << 20)
	memory := budget.share()
	l.ln.cfg.Memory = memory
	p := l.newPusher()
	p.openWide(l, 1)
	greedy := l.ln.all()[0]
	p.send(1, int(budget.held.Size())*3/2)
	waitUntil(t, func() bool { return memory.held.Held() == budget.held.Size()*3/2 })

	other := l.newPusher()
	other.must(other.connect(1))
	other.read(is[*http2.MetaHeadersFrame])
	other.send(1, streamWindow)
	waitUntil(t, func() bool { return memory.held.Held() == budget.held.Size()*3/2+streamWindow })
	if other.sync(); other.reset > 0 || !memory.exhausted() {
		t.Errorf("%d streams were reset", other.reset)
	}
	p.send(1, 1)
	p.sync()
	if p.sync(); p.reset == 0 {
		t.Error("the one that holds most goes on")
	}
	greedy.abort(ErrDrained)
}

// What a peer says of a frame, and does not finish, counts like what waits for an app.
func TestFramesInPartCountForThePodThatHoldsThem(t *testing.T) {
	l := newLink(t, func(s *Stream) { s.Accept(); <-s.Done(); s.Reset() })
	memory := newBudgetOfBytes(1 << 20).share()
	l.ln.cfg.Memory = memory
	block := make([]byte, 32<<10)
	for name, frames := range map[string][]byte{
		"a frame":        append(h2.AppendFrame(nil, len(block)+1, h2.KindHeaders, h2.FlagEndHeaders, 1), block...),
		"a header block": append(h2.AppendFrame(nil, len(block), h2.KindHeaders, 0, 1), block...),
	} {
		t.Run(name, func(t *testing.T) {
			p := l.greetedClient()
			p.do(p.conn.Write(frames))
			waitUntil(t, func() bool { return memory.held.Held() >= int64(len(block)) })
			p.conn.NetConn().Close()
			waitUntil(t, func() bool { return memory.held.Held() == 0 })
		})
	}
}

func TestWhatAPodHoldsCountsForTheProcess(t *testing.T) {
	first, second := NewMemory(), NewMemory()
	first.hold(1000)
	defer first.hold(-1000)
	if size, held := MemoryHeld(); held < 1000 || size != first.of.held.Size() || size != second.of.held.Size() {
		t.Errorf("%d bytes of %d are held, and pods share %d and %d", held, size, first.of.held.Size(), second.of.held.Size())
	}
}

func TestNoPodTakesAllMemory(t *testing.T) {
	budget := newBudgetOfBytes(200 << 20)
	first, second := budget.share(), budget.share()
	fill := func(m *Memory) (n int64) {
		for m.lent.Take(1 << 20) {
			n += 1 << 20
		}
		return n
	}
	if got := fill(first); got != 80<<20 {
		t.Errorf("one pod gets %d of %d bytes", got, budget.lent.Size())
	}
	if got := fill(second); got != 16<<20 {
		t.Errorf("the next gets %d", got)
	}
}

// What a pod holds beyond its share, a little in very many tunnels, is its own: the
// next gets what it would have got, and nothing of it is reset.
func TestAPodThatHoldsMoreThanAllLeavesOthersTheirShare(t *testing.T) {
	l := newLink(t, func(s *Stream) { s.Accept(); <-s.Done(); s.Reset() })
	budget := newBudgetOfBytes(64 << 20)
	greedy, other := budget.share(), budget.share()
	const tunnels = 2500 // more have no place
	for range tunnels {
		greedy.hold(streamWindow)
	}
	if !greedy.flooded() || other.overdrawn() {
		t.Fatalf("of %d bytes one pod holds %d, and the other may hold %d", budget.held.Size(), greedy.held.Held(), other.held.Share(0))
	}
	p := l.newPusher()
	p.openWide(l, 1)
	l.ln.all()[0].setMemory(other)
	l.ln.all()[0].openWindow(1, 4<<20)
	if sent := p.send(1, 4<<20); sent < 4<<20 {
		t.Errorf("%d bytes of it are taken", sent)
	}
	if p.sync(); p.reset > 0 || other.overdrawn() {
		t.Errorf("%d streams were reset; it holds %d of %d bytes", p.reset, other.held.Held(), other.held.Share(0))
	}
	greedy.hold(-tunnels * streamWindow)
	l.ln.all()[0].abort(ErrDrained)
	waitUntil(t, func() bool { return budget.held.Used() == 0 })
}

func (c *conn) setMemory(m *Memory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writer.mu.Lock() // for the leader
	defer c.writer.mu.Unlock()
	c.memory = m
}

func (c *conn) heldBytes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held
}
