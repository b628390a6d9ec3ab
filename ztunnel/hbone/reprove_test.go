// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// vouching has each end's certificates be vouched for by a root of the test's choice:
// those of credentials that are made from now on, by root.
func (b *bubble) vouching(root *atomic.Bool) {
	b.vouchingAt(root, root)
}

func (b *bubble) vouchingAt(client, server *atomic.Bool) {
	by := func(c Credential, root *atomic.Bool) Credential {
		until := c.Until
		c.Until = func(state tls.ConnectionState) time.Time {
			if !root.Load() {
				return time.Unix(1, 0)
			}
			return until(state)
		}
		return c
	}
	b.ln.cfg.Credential = func(context.Context) (Credential, error) {
		return by(b.ca.credential(serverID, clientID, b.ttl), server), nil
	}
	b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) {
		return by(b.ca.credential(clientID, serverID, b.ttl), client), nil
	}
}

func trusted() *atomic.Bool {
	root := new(atomic.Bool)
	root.Store(true)
	return root
}

// Law 6: when the bundle changes every live tunnel is re-proved at once, both roles;
// what no longer proves ends as denied. The other end, which has not heard of the
// change yet, says denied too.
func TestATunnelWhoseRootIsDroppedEndsAsDeniedAtBothEnds(t *testing.T) {
	for name, reprove := range map[string]func(b *bubble){
		"the client hears first": func(b *bubble) { b.pool.Reprove() },
		"the server hears first": func(b *bubble) { b.ln.Reprove() },
		"both hear":              func(b *bubble) { b.pool.Reprove(); b.ln.Reprove() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				root := trusted()
				b.vouching(root)
				near, far := b.open()
				reprove(b) // a root more
				pass(time.Second)
				wantOpen(t, near, far)
				if n := b.countDials(); n != 1 {
					t.Errorf("%d dials: what still proves must not notice", n)
				}
				root.Store(false)
				reprove(b)
				pass(time.Second)
				wantEnd(t, near, ErrDenied)
				wantEnd(t, far, ErrDenied)
			})
		})
	}
}

func TestAGuardWhoseRootIsDroppedIsLostAsDenied(t *testing.T) {
	for name, reprove := range map[string]func(b *bubble){
		"the client's end": func(b *bubble) { b.pool.Reprove() },
		"the server's end": func(b *bubble) { b.ln.Reprove() },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				root := trusted()
				b.vouching(root)
				g := b.guard()
				root.Store(false)
				reprove(b)
				g.wantLost(t, ErrDenied)
			})
		})
	}
}

// A stream may be older than the leaves of its tunnel: it rests on a younger tunnel, in
// which both ends have proved themselves under the root that stays.
func TestAStreamOutlivesTheRootOfItsTunnelBehindAYoungerOne(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		old, young := trusted(), trusted()
		b.vouching(old)
		near, far := b.open()
		b.vouching(young)
		b.pool.Retire(Rotated)
		b.ln.Retire(Rotated)
		later, laterFar := b.open()
		pass(time.Second)
		old.Store(false)
		b.pool.Reprove()
		b.ln.Reprove()
		pass(time.Second)
		wantOpen(t, near, far, later, laterFar)
		young.Store(false)
		b.pool.Reprove()
		b.ln.Reprove()
		pass(time.Second)
		for _, s := range []*Stream{near, far, later, laterFar} {
			wantEnd(t, s, ErrDenied)
		}
	})
}

// Roots change from A to A and B, and back to A: the youngest tunnel rests on B.
func TestAStreamRestsOnEachYoungerTunnelThatStillProvesBothEnds(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		reprove := func() {
			b.pool.Reprove()
			b.ln.Reprove()
			pass(time.Second)
		}
		roots := []*atomic.Bool{trusted(), trusted(), trusted()}
		var near, far *Stream
		for i, root := range roots {
			b.vouching(root)
			b.pool.Retire(Rotated)
			b.ln.Retire(Rotated)
			n, f := b.open()
			if i == 0 {
				near, far = n, f
			}
			pass(time.Second)
		}
		roots[0].Store(false)
		roots[2].Store(false)
		reprove()
		wantOpen(t, near, far)
		roots[1].Store(false)
		reprove()
		wantEnd(t, near, ErrDenied)
		wantEnd(t, far, ErrDenied)
	})
}

func TestAYoungerTunnelWhoseRootWasDroppedExtendsNothing(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.open()
		older := b.pool.all()[0]
		before := older.deadline
		younger := &conn{until: before.Add(time.Hour)}
		younger.grounds.own = func([32]byte) time.Time { return time.Unix(1, 0) }
		older.extend(younger)
		if !older.deadline.Equal(before) || len(older.grounds.younger) > 0 {
			t.Errorf("the older one ends at %v, not at %v, and rests on %d younger", older.deadline, before, len(older.grounds.younger))
		}
		younger.grounds.own = func([32]byte) time.Time { return younger.until }
		for range 2 * maxYounger {
			older.extend(younger)
		}
		if !older.deadline.After(before) || len(older.grounds.younger) != maxYounger {
			t.Errorf("one that holds: the older one ends at %v, and rests on %d younger", older.deadline, len(older.grounds.younger))
		}
	})
}

// The certificates of a younger tunnel are parsed once for all older ones, and only if roots
// may have changed since its handshake. Roots that change meanwhile count.
func TestOlderTunnelsAreExtendedByOneLookAtTheYounger(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		b.open()
		b.pool.Retire(Rotated)
		b.open()
		older := b.ln.all()
		if len(older) != 2 {
			t.Fatalf("%d tunnels, want 2", len(older))
		}
		younger, looks := &conn{peer: older[0].peer, remote: older[0].remote}, 0
		later := older[0].deadline.Add(time.Hour)
		younger.grounds.own = func([32]byte) time.Time {
			looks++
			return later
		}
		soon := later.Add(-time.Minute)
		younger.until = soon // as the handshake found
		b.ln.extendOlder(younger, b.ln.provingsNow())
		if looks != 0 || !older[0].deadline.Equal(soon) || !older[1].deadline.Equal(soon) {
			t.Errorf("%d looks at what was just proven; they end at %v and %v, want %v", looks, older[0].deadline, older[1].deadline, soon)
		}
		before := b.ln.provingsNow()
		b.ln.Reprove()
		b.ln.extendOlder(younger, before)
		if looks < 1 || !older[0].deadline.Equal(later) || !older[1].deadline.Equal(later) {
			t.Errorf("%d looks; they end at %v and %v, want %v", looks, older[0].deadline, older[1].deadline, later)
		}
		root := trusted()
		younger.grounds.own = func([32]byte) time.Time {
			if !root.Swap(false) {
				return longAgo
			}
			b.ln.Reprove() // the root goes after this answer
			return later.Add(time.Hour)
		}
		b.ln.extendOlder(younger, before)
		for _, c := range older {
			if !c.deadline.Equal(later) {
				t.Errorf("by a root that went meanwhile, it ends at %v, want %v", c.deadline, later)
			}
		}
	})
}

// What rests on younger tunnels alone gets no new streams, whichever end finds that out, and
// forgets those of them that do not hold any more, so that they take the place of none that
// does.
func TestATunnelThatRestsOnYoungerOnesGetsNoNewStreams(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				own, passing := trusted(), trusted()
				find, reprove := b.pool.all, b.pool.Reprove
				if side == "client" {
					b.vouchingAt(own, trusted())
				} else {
					b.vouchingAt(trusted(), own)
					find, reprove = b.ln.all, b.ln.Reprove
				}
				near, far := b.open()
				c := find()[0]
				for _, root := range []*atomic.Bool{trusted(), passing} {
					c.extend(youngerOne(root))
				}
				own.Store(false)
				passing.Store(false)
				reprove()
				synctest.Wait() // at once, and not at the next tick
				wantOpen(t, near, far)
				if n := len(c.grounds.younger); n != 1 {
					t.Errorf("it remembers %d younger ones, want the one that holds", n)
				}
				b.vouching(trusted())
				b.open()
				if n := b.countDials(); n < 2 {
					t.Errorf("%d dials: the new stream rides on the old proof", n)
				}
			})
		})
	}
}

// youngerOne is a tunnel that holds for an hour, or until its root is dropped.
func youngerOne(root *atomic.Bool) *conn {
	c, until := &conn{}, time.Now().Add(time.Hour)
	c.grounds.own = func([32]byte) time.Time {
		if !root.Load() {
			return longAgo
		}
		return until
	}
	return c
}

// One that began its handshake before the change is found, though it was nobody's yet.
func TestATunnelInItsHandshakeIsReprovedToo(t *testing.T) {
	for _, side := range []string{"client", "server"} {
		t.Run(side, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				b.open()
				b.pool.Retire(Rotated)
				client, server := trusted(), trusted()
				b.vouchingAt(client, server)
				dropped := map[string]*atomic.Bool{"client": client, "server": server}[side]
				hook := func(c Credential) Credential {
					until := c.Until
					c.Until = func(state tls.ConnectionState) time.Time {
						at := until(state)
						if dropped.Swap(false) { // after its handshake was judged
							b.pool.Reprove()
							b.ln.Reprove()
						}
						return at
					}
					return c
				}
				if side == "client" {
					made := b.pool.cfg.Credential
					b.pool.cfg.Credential = func(ctx context.Context, k Key) (Credential, error) {
						c, err := made(ctx, k)
						return hook(c), err
					}
				} else {
					made := b.ln.cfg.Credential
					b.ln.cfg.Credential = func(ctx context.Context) (Credential, error) {
						c, err := made(ctx)
						return hook(c), err
					}
				}
				s, err := b.pool.Open(t.Context(), b.key, Target{Authority: b.key.Addr})
				if err == nil {
					pass(time.Second)
					wantEnd(t, s, ErrDenied)
				}
			})
		})
	}
}

// A root may go when no tunnel rests on it: neither by its own certificates, nor by those of
// a younger one.
func TestATunnelRestsOnARootUntilAYoungerOneStandsInForIt(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		former, other := [32]byte{1}, [32]byte{2}
		b.restingOn(former)
		near, far := b.open()
		wantRests := func(when string, root [32]byte, want int) {
			t.Helper()
			if pool, ln := b.pool.RestOn(root), b.ln.RestOn(root); pool != want || ln != want {
				t.Errorf("%s: %d and %d tunnels rest on it, want %d", when, pool, ln, want)
			}
		}
		wantRests("made under it", former, 1)
		wantRests("another root", other, 0)
		b.restingOn(other)
		b.pool.Retire(Rotated)
		b.ln.Retire(Rotated)
		later, laterFar := b.open()
		pass(time.Second)
		wantRests("behind a younger one", former, 0)
		if b.pool.RestOn(other) == 0 || b.ln.RestOn(other) == 0 {
			t.Error("nothing rests on the root of the younger one")
		}
		wantOpen(t, near, far, later, laterFar)
	})
}

// restingOn has credentials that are made from now on rest on one root.
func (b *bubble) restingOn(root [32]byte) {
	on := func(c Credential) Credential {
		c.Without = func(state tls.ConnectionState, but [32]byte) time.Time {
			if but == root {
				return longAgo
			}
			return c.Until(state)
		}
		return c
	}
	b.ln.cfg.Credential = func(context.Context) (Credential, error) {
		return on(b.ca.credential(serverID, clientID, b.ttl)), nil
	}
	b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) {
		return on(b.ca.credential(clientID, serverID, b.ttl)), nil
	}
}
