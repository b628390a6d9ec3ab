// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"
)

// accusation is a denial as a Credential says it.
type accusation struct{ who string }

func (a *accusation) Error() string { return a.who + " is denied" }
func (a *accusation) Denied() bool  { return true }

// denying has each end ask its own deny set, which a test switches.
func (b *bubble) denying(client, server *atomic.Bool) {
	by := func(c Credential, set *atomic.Bool, peer netip.Addr) Credential {
		c.Denied = func(state tls.ConnectionState, remote netip.AddrPort) error {
			switch {
			case len(state.PeerCertificates) == 0:
				return errors.New("without the peer's certificates nothing can be asked")
			case remote.Addr() != peer:
				return fmt.Errorf("asked for %v, the peer is %v", remote, peer)
			case set.Load():
				return &accusation{"somebody"}
			}
			return nil
		}
		return c
	}
	b.ln.cfg.Credential = func(context.Context) (Credential, error) {
		return by(b.ca.credential(serverID, clientID, b.ttl), server, netip.MustParseAddr("10.0.0.1")), nil
	}
	b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) {
		return by(b.ca.credential(clientID, serverID, b.ttl), client, b.key.Addr.Addr()), nil
	}
}

// sides are who denies.
var sides = map[string]func(client, server *atomic.Bool) *atomic.Bool{
	"the client": func(client, _ *atomic.Bool) *atomic.Bool { return client },
	"the server": func(_, server *atomic.Bool) *atomic.Bool { return server },
}

// F-16, N-9: whoever hears of a denial first ends the streams of both ends.
func TestATunnelThatOneEndDeniesEndsAsDeniedAtBothEnds(t *testing.T) {
	for name, side := range sides {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				client, server := new(atomic.Bool), new(atomic.Bool)
				b.denying(client, server)
				near, far := b.open()
				b.pool.Reprove()
				b.ln.Reprove()
				pass(time.Second)
				wantOpen(t, near, far)
				side(client, server).Store(true)
				b.pool.Reprove()
				b.ln.Reprove()
				pass(time.Second)
				wantEnd(t, near, ErrDenied)
				wantEnd(t, far, ErrDenied)
			})
		})
	}
}

func TestAGuardWhoseTunnelIsDeniedIsLostAsDenied(t *testing.T) {
	for name, side := range sides {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				client, server := new(atomic.Bool), new(atomic.Bool)
				b.denying(client, server)
				g := b.guard()
				side(client, server).Store(true)
				b.pool.Reprove()
				b.ln.Reprove()
				g.wantLost(t, ErrDenied)
			})
		})
	}
}

// Whoever made the older tunnel by a denied key need not be who made the younger one.
func TestNoYoungerTunnelSavesTheStreamsOfADeniedOne(t *testing.T) {
	inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
		first, second := new(atomic.Bool), new(atomic.Bool)
		b.denying(first, first)
		near, far := b.open()
		b.denying(second, second)
		b.pool.Retire(Rotated)
		b.ln.Retire(Rotated)
		later, laterFar := b.open()
		pass(time.Second)
		first.Store(true)
		b.pool.Reprove()
		b.ln.Reprove()
		pass(time.Second)
		wantEnd(t, near, ErrDenied)
		wantEnd(t, far, ErrDenied)
		wantOpen(t, later, laterFar)
	})
}

// A new tunnel is refused as denied by whoever knows, in either role, by the handshake's own
// check and by what is asked after it; so is one for which there is no certificate to show.
func TestATunnelIsRefusedAsDenied(t *testing.T) {
	denied := &accusation{"somebody"}
	for name, refuse := range map[string]func(b *bubble){
		"by the client, after the handshake": func(b *bubble) {
			always := new(atomic.Bool)
			always.Store(true)
			b.denying(always, new(atomic.Bool))
		},
		"by the client, in the handshake": func(b *bubble) {
			b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) {
				c := b.ca.credential(clientID, serverID, b.ttl)
				c.Config.VerifyConnection = func(tls.ConnectionState) error { return fmt.Errorf("verify: %w", denied) }
				return c, nil
			}
		},
		"by the client, before": func(b *bubble) {
			b.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return Credential{}, denied }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				refuse(b)
				if _, err := b.openWithin(10 * time.Second); causeIn(err) != ErrDenied {
					t.Errorf("%v", err)
				}
			})
		})
	}
	for name, refuse := range map[string]func(b *bubble){
		"by the server, after the handshake": func(b *bubble) {
			always := new(atomic.Bool)
			always.Store(true)
			b.denying(new(atomic.Bool), always)
		},
		"by the server, before": func(b *bubble) {
			b.ln.cfg.Credential = func(context.Context) (Credential, error) { return Credential{}, denied }
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, time.Hour, func(t *testing.T, b *bubble) {
				told := make(chan error, 16)
				b.ln.cfg.Refused = func(_ netip.AddrPort, err error) { told <- err }
				refuse(b)
				if _, err := b.openWithin(10 * time.Second); err == nil {
					t.Error("it was opened")
				}
				if err := <-told; causeIn(err) != ErrDenied {
					t.Errorf("the server says %v", err)
				}
			})
		})
	}
}

// causeIn is the word that an access record would have.
func causeIn(err error) Cause {
	cause, _ := errors.AsType[Cause](err)
	return cause
}
