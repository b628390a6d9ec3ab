// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
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

// The listener's authority is tainted while the answer to the PING of its first GOAWAY waits
// behind bulk. The client takes the second for the end of the first: a third one asks.
func TestAListenerThatIsToAskAgainDuringItsWarningDoesSoBehindIt(t *testing.T) {
	for name, answers := range map[string]bool{"the PING is answered": true, "it is not": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				p := b.raw(false)
				go func() {
					io.WriteString(p.conn, h2.Preface)
					p.alone(func() error { return p.WriteSettings() })
					p.connectTo(1, b.key.Addr)
				}()
				p.until(is[*http2.MetaHeadersFrame])
				far := <-b.arrived
				last := make(chan uint32, 10) // streams, of the GOAWAYs that came
				go func() {
					for {
						f, err := p.find(is[*http2.GoAwayFrame])
						if err != nil {
							return
						}
						last <- f.(*http2.GoAwayFrame).LastStreamID
					}
				}()
				want := func(ids ...uint32) {
					t.Helper()
					var said []uint32
					for len(last) > 0 {
						said = append(said, <-last)
					}
					if !slices.Equal(said, ids) {
						t.Errorf("it said %v, want %v", said, ids)
					}
				}
				b.ln.Retire(Rotated)
				pass(goAwayDelay / 4)
				b.ln.Retire(Tainted)
				pass(goAwayDelay / 4)
				want(h2.WindowLimit)
				if answers {
					p.alone(func() error { return p.WritePing(true, pingData) })
				}
				pass(goAwayDelay)
				want(1, 1)
				wantOpen(t, far)
			})
		})
	}
}

// The same, with what follows: by the first GOAWAY the client made a tunnel that rests on the
// tainted authority, too.
func TestAnAuthorityThatIsTaintedDuringTheWarningIsLeft(t *testing.T) {
	inBubble(t, 10*time.Hour, func(t *testing.T, b *bubble) {
		former, next := trusted(), trusted()
		pool, listener := b.vouchingNow(former)
		pool.Store(next)
		connect, held := b.pool.connect, &heldConn{}
		b.pool.connect = func(ctx context.Context, key Key) (conn net.Conn, err error) {
			b.pool.connect = connect
			held.Conn, err = connect(ctx, key)
			return held, err
		}
		near, far := b.open()
		pass(11 * time.Second)
		held.hold = make(chan struct{})
		b.ln.Retire(Rotated)
		pass(goAwayDelay / 4)
		if n := b.countDials(); n != 2 || near.c.moves() {
			t.Fatalf("%d dials", n)
		}
		listener.Store(next)
		b.ln.Retire(Tainted)
		pass(goAwayDelay / 4)
		close(held.hold)
		pass(time.Second)
		former.Store(false)
		b.ln.Reprove()
		pass(time.Second)
		wantOpen(t, near, far)
		pass(time.Minute)
		if n := b.countDials(); n != 3 {
			t.Errorf("%d dials", n)
		}
	})
}

// heldConn is a connection whose writes wait, if hold is set, until it is closed.
type heldConn struct {
	net.Conn
	hold chan struct{}
}

func (c *heldConn) Write(b []byte) (int, error) {
	if c.hold != nil {
		<-c.hold
	}
	return c.Conn.Write(b)
}
