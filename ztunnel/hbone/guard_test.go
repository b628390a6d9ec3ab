// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// watched is a Guard and how it was lost.
type watched struct {
	*Guard
	lost chan error
}

func (b *bubble) guard() watched {
	b.t.Helper()
	w := watched{lost: make(chan error, 2)}
	var err error
	w.Guard, err = b.pool.Guard(b.t.Context(), b.key, b.ln, func(err error) { w.lost <- err })
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(w.Release)
	return w
}

func (w watched) wantHeld(t *testing.T) {
	t.Helper()
	select {
	case err := <-w.lost:
		t.Fatalf("lost: %v", err)
	default:
	}
}

func (w watched) wantLost(t *testing.T, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-w.lost:
		if !errors.Is(err, want) {
			t.Errorf("lost by %v, want %v", err, want)
		}
	default:
		t.Errorf("is held, want it lost by %v", want)
	}
}

func (b *bubble) wantTunnels(n int) {
	b.t.Helper()
	if near, far := b.pool.Stats().Tunnels, b.ln.Stats().Tunnels; near != n || far != n {
		b.t.Errorf("%d tunnels here and %d there, want %d", near, far, n)
	}
}

func TestGuardsOfOneKeyShareATunnelThatProvesBothEnds(t *testing.T) {
	l := newLink(t, nil)
	var all sync.WaitGroup
	for range 2 * clientStreams {
		all.Go(func() {
			g, err := l.pool.Guard(context.Background(), l.key, l.ln, func(err error) { t.Errorf("lost: %v", err) })
			if err != nil {
				t.Error(err)
				return
			}
			defer g.Release()
			if g.Client() != clientID || g.Addr() != l.key.Addr.Addr() {
				t.Errorf("the destination sees %v from %v", g.Client(), g.Addr())
			}
		})
	}
	all.Wait()
	if n := l.dials.Load(); n != 1 {
		t.Errorf("%d dials", n)
	}
	l.open() // streams use the same one
	if n := l.dials.Load(); n != 1 {
		t.Errorf("%d dials with a stream", n)
	}
}

// A tunnel that leads to another pod, though of the same identity, guards nothing.
func TestGuardNeedsTheFarEndOfItsTunnel(t *testing.T) {
	l, other := newLink(t, nil), newLink(t, nil)
	if _, err := l.pool.Guard(context.Background(), l.key, other.ln, nil); err != ErrElsewhere {
		t.Errorf("error %v, want %v", err, ErrElsewhere)
	}
}

func TestGuardFailsAsAStreamWould(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(l *link)
		want   error
	}{
		{"nobody listens", func(l *link) { l.ln.Close() }, ErrDial},
		{"no certificate", func(l *link) {
			l.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return Credential{}, io.EOF }
		}, ErrIdentity},
		{"another identity is expected", func(l *link) { l.key.Dst = otherID }, ErrTLS},
		{"the peer refuses our certificate", func(l *link) {
			l.pool.cfg.Credential = func(_ context.Context, key Key) (Credential, error) {
				return l.ca.credential(otherID, key.Dst, time.Hour), nil
			}
		}, ErrTLS},
		{"the pool is closed", func(l *link) { l.pool.Close() }, ErrDrained},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLink(t, nil)
			tc.change(l)
			if _, err := l.pool.Guard(context.Background(), l.key, l.ln, nil); !errors.Is(err, tc.want) {
				t.Errorf("error %v, want %v", err, tc.want)
			}
		})
	}
}

func TestGuardIsLostWithItsTunnel(t *testing.T) {
	for _, tc := range []struct {
		name string
		end  func(b *bubble)
		want error
	}{
		{"here", func(b *bubble) { go b.pool.Close() }, ErrDrained},
		{"there", func(b *bubble) { b.unreachable(); go b.ln.Close() }, ErrReset},
		{"denied here", func(b *bubble) { b.pool.Retire(Denied) }, ErrDenied},
		{"denied there", func(b *bubble) { b.ln.Retire(Denied) }, ErrDenied},
		{"denied there, which the network does not tell", func(b *bubble) { b.mute.Store(true); b.ln.Retire(Denied) }, ErrDenied},
		{"network", func(b *bubble) { b.pool.all()[0].wire.Close() }, ErrReset},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				first, second := b.guard(), b.guard()
				second.Release()
				tc.end(b)
				first.wantLost(t, tc.want)
				second.wantHeld(t) // who gave it back is not told
			})
		})
	}
}

func TestGuardIsLostWhenThePeerAnswersNoPing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		g := b.guard()
		b.mute.Store(true)
		pass(19 * time.Second)
		g.wantHeld(t)
		pass(12 * time.Second)
		g.wantLost(t, ErrReset)
	})
}

// A NetworkPolicy that cuts an open tunnel is noticed by the next connection,
// long before the tunnel is given up. No other tunnel can be had.
func TestNoGuardWhereTheNetworkLetsNothingThrough(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		g := b.guard()
		pass(2 * time.Second)
		b.mute.Store(true)
		b.pool.connect = func(ctx context.Context, _ Key) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		for _, want := range []time.Duration{11 * time.Second, 10 * time.Second} { // the tunnel is asked once
			begin := time.Now()
			_, err := b.pool.Guard(t.Context(), b.key, b.ln, nil)
			if took := time.Since(begin); took != want || !errors.Is(err, ErrDial) || !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("waited %v, want %v: %v", took, want, err)
			}
			g.wantHeld(t)
		}
		pass(7 * time.Second)
		g.wantLost(t, ErrReset)
	})
}

// Something on the way forgot the connections, and lets new ones through.
func TestGuardsLeaveADeadTunnelForOneFreshTunnel(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		held := b.guard()
		dead := b.pool.all()[0]
		pass(5 * time.Second)
		b.forget()
		begin := time.Now()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 100 * time.Millisecond)
				if b.guard().near == dead {
					t.Error("a Guard is in the dead tunnel")
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took != freshly {
			t.Errorf("it took %v", took)
		}
		pass(time.Minute) // in which the dead tunnel ends
		held.wantHeld(t)  // for it has moved
		b.wantTunnels(1)
		if n := b.countDials(); n != 2 {
			t.Errorf("%d dials", n)
		}
	})
}

// Several tunnels of one key die together, some of them with streams.
func TestAGuardIsNotAskedForInOneDeadTunnelAfterTheOther(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.pool.cfg.MaxStreams = 1
		for range 5 {
			b.open()
		}
		pass(5 * time.Second)
		b.forget()
		begin := time.Now()
		b.guard()
		if took := time.Since(begin); took != freshly {
			t.Errorf("it took %v", took)
		}
	})
}

func TestGuardKeepsItsTunnelFromBeingIdle(t *testing.T) {
	inBubble(t, 24*time.Hour, func(t *testing.T, b *bubble) {
		g := b.guard()
		pass(time.Hour)
		g.wantHeld(t)
		b.wantTunnels(1)
		g.Release()
		pass(4 * time.Minute)
		b.wantTunnels(1)
		b.guard().Release() // uses what is there
		pass(2 * time.Minute)
		b.wantTunnels(1)
		pass(5 * time.Minute)
		b.wantTunnels(0)
		if n := b.countDials(); n != 1 {
			t.Errorf("%d dials", n)
		}
	})
}

// Law 6: what a Guard protects lives as long as younger tunnels prove both ends anew.
func TestGuardMovesToTheYoungerTunnel(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		g := b.guard()
		oldest := b.pool.all()[0]
		pass(10 * time.Hour)
		g.wantHeld(t)
		if n := b.countDials(); n < 10 || n > 14 {
			t.Errorf("%d dials in 10 hours", n)
		}
		b.wantTunnels(1) // the older ones are not kept
		if b.pool.all()[0] == oldest {
			t.Error("it did not move")
		}
		b.setDown(true)
		pass(time.Hour + time.Minute)
		g.wantLost(t, ErrExpired)
	})
}

func TestGuardMovesWhenEitherEndRotates(t *testing.T) {
	for _, end := range []string{"pool", "listener"} {
		t.Run(end, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				g := b.guard()
				if end == "pool" {
					b.pool.Retire(Rotated)
					b.guard().Release() // new ones need a younger tunnel
				} else {
					b.ln.Retire(Rotated) // asks for one
				}
				pass(5 * time.Second)
				g.wantHeld(t)
				b.wantTunnels(1)
				if n := b.countDials(); n != 2 {
					t.Errorf("%d dials", n)
				}
			})
		})
	}
}

// Rotation fails nobody who waits for a tunnel's first sign of life.
func TestARotationFailsNoGuardThatWaitsInATunnelThatHasSaidNothing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		connect := b.pool.connect
		p := b.raw(true)
		go io.Copy(io.Discard, p.conn) // shakes hands, and says no more
		go func() {
			pass(500 * time.Millisecond)
			b.pool.connect = connect
			b.pool.Retire(Rotated)
		}()
		b.guard().wantHeld(t)
	})
}

// Law 3: a pod that leaves the mesh breaks nothing that is open.
func TestListenerThatDrainsWaitsForGuards(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		g := b.guard()
		b.setDown(true)
		drained := make(chan struct{})
		go func() { b.ln.Drain(t.Context()); close(drained) }()
		pass(30 * time.Minute)
		g.wantHeld(t)
		g.Release()
		pass(5 * time.Second)
		select {
		case <-drained:
		default:
			t.Error("still draining")
		}
	})
}
