// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// longLived is what must outlive the certificates of its tunnel: each alone, as the one
// that moves keeps the younger tunnel in use, which the other then finds there.
var longLived = map[string]func(b *bubble) (wantAlive func()){
	"a stream": func(b *bubble) func() {
		near, far := b.open()
		return func() { b.t.Helper(); wantOpen(b.t, near, far) }
	},
	"a guard": func(b *bubble) func() {
		g := b.guard()
		return func() { b.t.Helper(); g.wantHeld(b.t) }
	},
}

// The listener rotates again while the tunnel that its first rotation brought is in its
// handshake: what that proves does not count, and the older tunnel was asked already.
func TestASecondRotationInTheHandshakeThatTheFirstBroughtEndsNothing(t *testing.T) {
	for name, begin := range longLived {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				wantAlive := begin(b)
				pass(30 * time.Minute)
				b.duringHandshake(func() { b.ln.Retire(Rotated) })
				b.ln.Retire(Rotated)
				pass(31 * time.Minute) // past the end of the first certificates
				wantAlive()
				pass(10 * time.Hour)
				wantAlive()
			})
		})
	}
}

// What vouches for a tunnel may go in a minute, though its certificates hold for an hour: who is
// open in it moves at once, whichever end renews last. A handshake that a rotation overtakes is
// followed by another.
func TestWhatIsOpenMovesAtOnceFromATunnelOfATaintedAuthority(t *testing.T) {
	for renews, renew := range map[string]func(b *bubble, pool, listener func()){
		"the pool last":     func(_ *bubble, pool, listener func()) { listener(); pass(5 * time.Second); pool() },
		"the listener last": func(_ *bubble, pool, listener func()) { pool(); pass(5 * time.Second); listener() },
		"the pool in the handshake that the listener asked for": func(b *bubble, pool, listener func()) {
			b.duringHandshake(pool)
			listener()
		},
	} {
		for name, begin := range longLived {
			t.Run(name+", "+renews, func(t *testing.T) {
				inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
					former, next := trusted(), trusted()
					pool, listener := b.vouchingNow(former)
					wantAlive := begin(b)
					pass(10 * time.Minute)
					renew(b, func() { pool.Store(next); b.pool.Retire(Tainted) }, func() { listener.Store(next); b.ln.Retire(Tainted) })
					pass(5 * time.Second)
					former.Store(false)
					b.pool.Reprove()
					b.ln.Reprove()
					pass(time.Second)
					wantAlive()
					if n := b.countDials(); n > 4 {
						t.Errorf("%d dials", n)
					}
				})
			})
		}
	}
}

// The one dial may fail, whichever end has it tried: it is tried again at once, and not only
// before the certificates end.
func TestWhatIsOpenLeavesATaintedAuthorityThoughTheFirstDialFails(t *testing.T) {
	for tells, tell := range map[string][2]Reason{"the pool moves": {Tainted, Rotated}, "the listener asks": {Rotated, Tainted}} {
		for name, begin := range longLived {
			t.Run(name+", "+tells, func(t *testing.T) {
				inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
					former, next := trusted(), trusted()
					pool, listener := b.vouchingNow(former)
					wantAlive := begin(b)
					pass(10*time.Minute + time.Second)
					b.setDown(true)
					pool.Store(next)
					listener.Store(next)
					b.pool.Retire(tell[0])
					b.ln.Retire(tell[1])
					pass(pingInterval)
					b.setDown(false)
					pass(pingInterval + time.Second)
					former.Store(false)
					b.pool.Reprove()
					b.ln.Reprove()
					pass(time.Second)
					wantAlive()
					dials := b.countDials()
					if dials > 8 {
						t.Errorf("%d dials in 20 s", dials)
					}
					pass(20 * time.Minute)
					if n := b.countDials() - dials; n > 0 {
						t.Errorf("%d dials once it has moved", n)
					}
				})
			})
		}
	}
}

// A listener has asked already for another reason, and the pool dialled before the listener's
// own certificates were renewed.
func TestAListenerThatAskedBeforeAsksAgainToLeaveATaintedAuthority(t *testing.T) {
	for name, begin := range longLived {
		t.Run(name, func(t *testing.T) {
			inBubble(t, 10*time.Hour, func(t *testing.T, b *bubble) {
				former, next := trusted(), trusted()
				pool, listener := b.vouchingNow(former)
				wantAlive := begin(b)
				pass(10 * time.Minute)
				b.ln.Retire(Rotated)
				pass(time.Hour)
				pool.Store(next)
				b.pool.Retire(Tainted)
				pass(5 * time.Second)
				listener.Store(next)
				b.ln.Retire(Tainted)
				pass(5 * time.Second)
				former.Store(false)
				b.pool.Reprove()
				b.ln.Reprove()
				pass(time.Second)
				wantAlive()
			})
		})
	}
}

// What a rotation overtakes is followed by another dial, whether it failed or not.
func TestADialThatFailsIsFollowedIfARotationOvertookIt(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.open()
		pass(10*time.Minute + time.Second)
		connect := b.pool.connect
		b.pool.connect = func(context.Context, Key) (net.Conn, error) {
			b.pool.connect = connect
			b.pool.Retire(Rotated)
			return nil, io.EOF
		}
		b.ln.Retire(Rotated)
		pass(time.Second)
		if n, tunnels := b.countDials(), b.pool.Stats().Tunnels; n != 2 || tunnels != 2 {
			t.Errorf("%d dials got through, and there are %d tunnels", n, tunnels)
		}
	})
}

// Law 6: the listener's clock is the first to say that certificates end. The pool has
// retired the tunnel by itself, or its peer has asked for a younger one before.
func TestStreamsAndGuardsOutliveTheirCertificatesThoughThePoolsClockIsLate(t *testing.T) {
	for rotates, rotate := range map[string]func(b *bubble){
		"nobody rotates":       func(*bubble) {},
		"the pool rotates":     func(b *bubble) { b.pool.Retire(Rotated) },
		"the listener rotates": func(b *bubble) { b.ln.Retire(Rotated) },
	} {
		for name, begin := range longLived {
			t.Run(name+", "+rotates, func(t *testing.T) {
				inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
					b.clientIsLate(2 * time.Minute)
					wantAlive := begin(b)
					pass(30 * time.Minute)
					rotate(b)
					pass(10 * time.Hour)
					wantAlive()
					if n := b.countDials(); n > 14 {
						t.Errorf("%d dials in 10 hours", n)
					}
				})
			})
		}
	}
}

// The one dial that the listener asks for may fail.
func TestAListenerAsksAgainWhereNoYoungerTunnelCame(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.clientIsLate(2 * time.Minute)
		near, far := b.open()
		b.setDown(true)
		pass(59*time.Minute + 30*time.Second)
		wantOpen(t, near, far)
		if b.countDials() < 2 {
			t.Fatal("the listener has not asked yet")
		}
		b.setDown(false)
		pass(10 * time.Minute)
		wantOpen(t, near, far)
	})
}

// Each dial is a handshake: a peer cannot ask for them without end.
func TestAPeerThatAsksForYoungerTunnelsWithoutEndGetsFew(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		p := b.raw(true)
		connect, asked := b.pool.connect, make(chan struct{})
		b.pool.connect = func(ctx context.Context, key Key) (net.Conn, error) {
			b.pool.connect = func(context.Context, Key) (net.Conn, error) { return nil, io.EOF }
			return connect(ctx, key)
		}
		go func() {
			io.ReadFull(p.conn, make([]byte, len(h2.Preface)))
			p.alone(func() error { return p.WriteSettings() })
			p.until(is[*http2.MetaHeadersFrame])
			p.writeHeaders(1, false, ":status", "200")
			for range 1000 {
				p.alone(func() error { return p.WriteGoAway(1, http2.ErrCodeNo, nil) })
				time.Sleep(time.Millisecond) // in which the dial fails
			}
			close(asked)
			p.answerPings()
		}()
		s, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
		if err != nil {
			t.Fatal(err)
		}
		<-asked
		if n := b.pool.Stats().Dials; n != 1+uint64(askRate.Burst) {
			t.Errorf("%d dials", n)
		}
		wantOpen(t, s)
	})
}

// duringHandshake calls f once, during the listener's next handshake.
func (b *bubble) duringHandshake(f func()) {
	once, credential := sync.OnceFunc(f), b.ln.cfg.Credential
	b.ln.cfg.Credential = func(ctx context.Context) (Credential, error) {
		defer once()
		return credential(ctx)
	}
}

// vouchingNow is vouching by roots that each end may replace while the other shakes hands.
func (b *bubble) vouchingNow(root *atomic.Bool) (pool, listener *atomic.Pointer[atomic.Bool]) {
	pool, listener = new(atomic.Pointer[atomic.Bool]), new(atomic.Pointer[atomic.Bool])
	pool.Store(root)
	listener.Store(root)
	dial, accept := b.pool.cfg.Credential, b.ln.cfg.Credential
	by := func(c Credential, err error, end *atomic.Pointer[atomic.Bool]) (Credential, error) {
		now, until := end.Load(), c.Until
		c.Until = func(s tls.ConnectionState) time.Time {
			if !now.Load() {
				return longAgo
			}
			return until(s)
		}
		return c, err
	}
	b.pool.cfg.Credential = func(ctx context.Context, key Key) (Credential, error) {
		c, err := dial(ctx, key)
		return by(c, err, pool)
	}
	b.ln.cfg.Credential = func(ctx context.Context) (Credential, error) {
		c, err := accept(ctx)
		return by(c, err, listener)
	}
	return pool, listener
}

// clientIsLate has the pool's clock be late by d, as far as certificates are concerned.
func (b *bubble) clientIsLate(d time.Duration) {
	credential := b.pool.cfg.Credential
	b.pool.cfg.Credential = func(ctx context.Context, key Key) (Credential, error) {
		c, err := credential(ctx, key)
		until := c.Until
		c.Until = func(s tls.ConnectionState) time.Time { return until(s).Add(d) }
		return c, err
	}
}
