// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"runtime"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// onProcessors has the test see n of them.
func onProcessors(t *testing.T, n int) {
	before := runtime.GOMAXPROCS(n)
	t.Cleanup(func() { runtime.GOMAXPROCS(before) })
}

// makeBusy has every tunnel look as if somebody had been writing all the time.
func (b *bubble) makeBusy() {
	for _, c := range b.pool.all() {
		c.mu.Lock()
		c.samples = ^uint16(0)
		c.mu.Unlock()
	}
}

func TestStreamsThatSayLittleShareATunnel(t *testing.T) {
	onProcessors(t, 4)
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		for range clientStreams {
			b.open()
			pass(2 * samplePause)
		}
		if n := b.countDials(); n != 1 {
			t.Errorf("%d tunnels for %d quiet streams", n, clientStreams)
		}
	})
}

func TestABusyTunnelIsJoinedByAnotherForAWhile(t *testing.T) {
	onProcessors(t, 2)
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		first, _ := b.open()
		b.makeBusy()
		b.open()
		pass(time.Second)
		if n := b.countDials(); n != 1 {
			t.Fatalf("%d tunnels, though one stream has nobody to share with", n)
		}
		b.makeBusy()
		third, _ := b.open() // does not wait for the tunnel that it has made
		pass(time.Second)
		if n := b.countDials(); n != 2 || third.c != first.c {
			t.Fatalf("%d tunnels", n)
		}
		var beside []*Stream
		for range 3 {
			s, _ := b.open()
			if s.c == first.c {
				t.Error("a stream went where there are more")
			}
			beside = append(beside, s)
		}

		b.makeBusy()
		pass(shardPause)
		b.makeBusy()
		for range 4 {
			b.open()
			pass(samplePause)
		}
		if n := b.countDials(); n != 2 {
			t.Errorf("%d tunnels on two processors", n)
		}

		wantOpen(t, beside...)
		for _, c := range b.pool.all() {
			if c != first.c {
				c.mu.Lock()
				for _, s := range c.streams {
					c.reset(s, h2.CodeCancel, ErrReset)
				}
				c.mu.Unlock()
			}
		}
		pass(shardIdle + pingInterval)
		if n := b.pool.Stats().Tunnels; n != 1 {
			t.Errorf("%d tunnels after an idle time", n)
		}
		wantOpen(t, first)
	})
}

// A peer may grant a tunnel's window again only as its apps read, and they may not.
func TestStreamsAreNotOpenedInATunnelThatThePeerStarves(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		first, _ := b.open()
		first.c.writer.starve()
		pass(stuckPause / 2)
		if second, _ := b.open(); second.c != first.c {
			t.Error("a tunnel is left that has waited for a moment only")
		}
		pass(stuckPause)
		third, _ := b.open()
		if third.c == first.c {
			t.Error("a stream is opened in a tunnel that sends nothing")
		}
		first.c.feedWindow(1)
		if first.c.writer.starved() {
			t.Error("the tunnel does not recover")
		}
		for range 3 * shardLimit {
			for _, c := range b.pool.all() {
				c.writer.starve()
			}
			pass(stuckPause)
			b.open()
		}
		if n := b.countDials(); n != 1+shardLimit {
			t.Errorf("%d tunnels to a peer that starves all", n)
		}
	})
}

// starve uses up what the peer lets us send.
func (w *writer) starve() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spend(w.window)
}

// feedWindow is a WINDOW_UPDATE of the tunnel.
func (c *conn) feedWindow(n byte) {
	c.windowUpdate(h2.Piece{FrameHeader: h2.FrameHeader{Kind: h2.KindWindowUpdate, Length: 4}, Payload: []byte{0, 0, 0, n}})
}

func TestATunnelThatCannotBeJoinedGoesOnAlone(t *testing.T) {
	onProcessors(t, 8)
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.open()
		b.open()
		b.setDown(true)
		for range 20 {
			b.makeBusy()
			b.open()
			pass(shardPause / 10)
		}
		if n := b.countDials(); n != 1+2 {
			t.Errorf("%d dials in %v", n, 2*shardPause)
		}
	})
}

// A hundred tunnels that a load needed hold what they hold, and what lies between it in the
// heap. The next load finds one.
func TestOfManyTunnelsOneStaysWhenTheLoadHasGone(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		const many = 5
		b.pool.cfg.MaxStreams = 2
		var open []*Stream
		for range 2 * many {
			near, far := b.open()
			open = append(open, near, far)
		}
		if n := b.pool.Stats().Tunnels; n != many {
			t.Fatalf("%d tunnels, want %d", n, many)
		}
		pass(time.Minute)
		if n := b.pool.Stats().Tunnels; n != many {
			t.Errorf("%d tunnels while their streams are idle", n)
		}
		for _, s := range open {
			s.Reset()
		}
		pass(shardIdle / 2)
		if n := b.pool.Stats().Tunnels; n != many {
			t.Errorf("%d tunnels a moment after the load", n)
		}
		pass(shardIdle/2 + pingInterval)
		if n := b.pool.Stats().Tunnels; n != 1 {
			t.Errorf("%d tunnels stay", n)
		}
		b.open()
		if n := b.countDials(); n != many {
			t.Errorf("the one that stays is not used: %d dials", n)
		}
	})
}

// One that stays is replaced when it is retired: the next is not beside another.
func TestTheTunnelThatFollowsARetiredOneStays(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		held, _ := b.open()
		b.pool.Retire(Rotated)
		near, far := b.open()
		near.Reset()
		far.Reset()
		pass(shardIdle + 2*pingInterval)
		if n := b.pool.Stats().Tunnels; n != 2 {
			t.Errorf("%d tunnels, want the retired one with its stream and its successor", n)
		}
		wantOpen(t, held)
	})
}
