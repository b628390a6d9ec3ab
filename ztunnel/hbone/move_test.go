// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"fmt"
	"slices"
	"testing"
	"time"
)

// tunnelsWithAStream opens n tunnels, each with a stream, whose ticks are seconds apart.
func (b *bubble) tunnelsWithAStream(n int) (streams []*Stream) {
	b.t.Helper()
	for range n {
		b.pool.Retire(Rotated) // or the stream would go into the tunnel before
		near, far := b.open()
		streams = append(streams, near, far)
		pass(1700 * time.Millisecond)
	}
	return streams
}

// A peer that drains asks for younger tunnels with its listener closed, for as long as its
// streams last. A new ask begins anew, and once the peer is back what is open moves soon.
func TestAPeerThatDrainsForLongIsDialledRarely(t *testing.T) {
	for _, tunnels := range []int{1, 3} {
		t.Run(fmt.Sprint(tunnels, " tunnels"), func(t *testing.T) {
			inBubble(t, 10*time.Hour, func(t *testing.T, b *bubble) {
				streams := b.tunnelsWithAStream(tunnels)
				old := b.pool.all()
				pass(2 * pingInterval)
				dialled := b.countDials()
				since := func() int {
					before := dialled
					dialled = b.countDials()
					return dialled - before
				}

				b.setDown(true)
				b.ln.Retire(Rotated)
				pass(30 * time.Minute)
				if n := since(); n < 30 || n > 37+3*tunnels {
					t.Errorf("%d dials in half an hour", n)
				}
				b.ln.Retire(Tainted)
				pass(3*pingInterval/2 + time.Second)
				if n := since(); n < 1+moveTries {
					t.Errorf("%d dials for a new ask", n)
				}
				pass(30 * time.Minute)
				since()

				b.setDown(false)
				pass(longestMovePause + pingInterval)
				if n := since(); n != 1 {
					t.Errorf("%d dials once the peer is back", n)
				}
				if slices.ContainsFunc(old, (*conn).moves) {
					t.Error("what is open has not moved")
				}
				pass(time.Hour)
				if n := since(); n != 0 {
					t.Errorf("%d dials once it has moved", n)
				}
				wantOpen(t, streams...)
			})
		})
	}
}

// Shortly before the certificates end the pool tries as often as if there had been no try
// before, also if the listener's clock is late and it does not ask.
func TestTheLastMinuteHasItsTriesThoughThereWereManyBefore(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		credential := b.ln.cfg.Credential
		b.ln.cfg.Credential = func(ctx context.Context) (Credential, error) {
			c, err := credential(ctx)
			until := c.Until
			c.Until = func(s tls.ConnectionState) time.Time { return until(s).Add(time.Hour) }
			return c, err
		}
		end := time.Now().Add(time.Hour)
		near, far := b.open()
		b.setDown(true)
		pass(10 * time.Minute)
		b.ln.Retire(Rotated)
		pass(time.Until(end) - 45*time.Second)
		before := b.countDials()
		pass(44 * time.Second)
		if n := b.countDials() - before; n < 2 {
			t.Errorf("%d dials at last", n)
		}
		wantOpen(t, near, far)
	})
}

// All tunnels of a key are to be left: one younger tunnel is enough, though it is there before
// the last of them is looked at.
func TestTunnelsOfATaintedAuthorityAreLeftByOneDial(t *testing.T) {
	inBubble(t, 10*time.Hour, func(t *testing.T, b *bubble) {
		streams := b.tunnelsWithAStream(3)
		for _, c := range b.pool.all() {
			move := c.hooks.move
			c.hooks.move = func(c *conn) {
				move(c)
				pass(time.Millisecond)
			}
		}
		before := b.countDials()
		b.pool.Retire(Tainted)
		pass(time.Minute)
		if n := b.countDials() - before; n != 1 {
			t.Errorf("%d dials", n)
		}
		wantOpen(t, streams...)
	})
}
