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
