// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// minted is one of the identities that the CA of another trust domain makes as it likes.
func minted(n int) spiffeid.ID {
	return spiffeid.RequireFromString(fmt.Sprintf("spiffe://other.example/ns/shop/sa/made-%d", n))
}

// Each identity has a share, and a CA of another trust domain makes identities without end: all
// of them together have one, and break no stream of ours.
func TestIdentitiesOfAnotherTrustDomainShareOnePlace(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: holderLeast, TrustDomain: clientID.TrustDomain()})
	var ours []*guest
	for i := range holderLeast {
		ours = append(ours, f.enter(clientID, fmt.Sprintf("127.0.0.%d", 2+i)))
	}
	for i := range 20 {
		if f.enter(minted(i), "127.0.1.1").err == nil {
			t.Fatalf("foreign identity %d took the place of a tunnel in use", i)
		}
	}
	for _, g := range ours {
		g.wantOpen()
	}
	ours[0].rest() // an idle one makes room, as for anybody
	foreign := f.enter(minted(0), "127.0.1.1")
	foreign.wantOpen()
	for i := range 20 {
		if f.enter(minted(1+i), "127.0.1.1").err == nil {
			t.Fatalf("foreign identity %d of the address took another place", 1+i)
		}
	}
	for _, g := range ours[1:] {
		g.wantOpen()
	}
	foreign.wantOpen()
}

// One of ours takes a place of another trust domain that has the most, whatever identities
// that has used.
func TestAnotherTrustDomainLosesATunnelToANewPeerOfOurs(t *testing.T) {
	f := newFair(t, ListenerConfig{MaxTunnels: 4, TrustDomain: clientID.TrustDomain()})
	var foreign []*guest
	for i := range 4 {
		foreign = append(foreign, f.enter(minted(i), fmt.Sprintf("127.0.1.%d", 1+i)))
		foreign[i].wantOpen()
	}
	f.enter(clientID, "127.0.0.2").wantOpen()
	waitUntil(t, func() bool {
		left := 0
		for _, g := range foreign {
			left += g.pool.Stats().Tunnels
		}
		return left == 3
	})
	for _, c := range f.ln.all() {
		if c.peer.MemberOf(clientID.TrustDomain()) != (c.payer == c.peer) || c.payer.TrustDomain() != c.peer.TrustDomain() {
			t.Errorf("what %v uses is counted for %v", c.peer, c.payer)
		}
	}
}

// A domain that no policy names is told so in few tunnels, and holds no other places; once a
// policy names it, its peers come in as others do.
func TestADomainThatNoPolicyNamesHoldsFewPlaces(t *testing.T) {
	var named atomic.Bool
	f := newFair(t, ListenerConfig{TrustDomain: clientID.TrustDomain(), Awaited: func(spiffeid.TrustDomain) bool { return named.Load() }})
	var guests []*guest
	for i := range unawaitedLimit {
		guests = append(guests, f.enter(minted(i), fmt.Sprintf("127.0.1.%d", 1+i)))
		guests[i].wantOpen()
	}
	f.wantRefused(f.enter(minted(99), "127.0.2.1"), "no policy lets in anybody of the trust domain other.example")
	third := f.enter(spiffeid.RequireFromString("spiffe://third.example/ns/shop/sa/a"), "127.0.2.2")
	f.wantRefused(third, "third.example")
	f.enter(clientID, "127.0.2.1").wantOpen() // one of ours, at the same address

	named.Store(true)
	f.enter(minted(99), "127.0.2.1").wantOpen()
	named.Store(false)

	guests[0].pool.Close()
	waitUntil(t, func() bool { return f.ln.Stats().Tunnels == unawaitedLimit+1 })
	f.enter(minted(100), "127.0.2.3").wantOpen()
}

// An address whose tunnel nobody awaits does not go before strangers for it.
func TestADomainThatNoPolicyNamesDoesNotGoFirst(t *testing.T) {
	for _, named := range []bool{false, true} {
		gate := NewGate()
		f := newFair(t, ListenerConfig{Door: gate.Door(), TrustDomain: clientID.TrustDomain(), Awaited: func(spiffeid.TrustDomain) bool { return named }})
		g := f.enter(minted(0), "127.0.1.1")
		g.wantOpen()
		if known := knownOf(gate, "127.0.1.1"); (known == 1) != named {
			t.Errorf("named by a policy: %v; the gate knows %d tunnels of its address", named, known)
		}
		g.pool.Close()
		waitUntil(t, func() bool { return f.ln.Stats().Tunnels == 0 })
	}
}

// knownOf is how many tunnels a Gate knows of an address.
func knownOf(g *Gate, addr string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if a := g.accounts[alone(netip.MustParseAddr(addr))]; a != nil {
		return a.tunnels
	}
	return 0
}

// So they do in tunnels that the pod dialled: what apps of another trust domain send is held
// for one peer.
func TestADialledPeerOfAnotherTrustDomainCountsForThat(t *testing.T) {
	for own, payer := range map[string]spiffeid.ID{"cluster.local": serverID, "mine.example": serverID.TrustDomain().ID()} {
		l := newLink(t, nil)
		l.pool.cfg.TrustDomain = spiffeid.RequireTrustDomainFromString(own)
		s, err := l.pool.Open(t.Context(), l.key, l.target(l.key))
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range l.pool.all() {
			if c.payer != payer {
				t.Errorf("to a pod of %s, what %v uses is counted for %v, want %v", own, c.peer, c.payer, payer)
			}
		}
		s.Reset()
	}
}

// A Credential says by a Cause with which word a stream ends that it gives no tunnel.
func TestACredentialsCauseIsTheStreams(t *testing.T) {
	l := newLink(t, nil)
	for want, err := range map[Cause]error{
		ErrTLS: fmt.Errorf("%w: nobody vouches for the peer", ErrTLS), ErrDenied: fmt.Errorf("%w: not expected", ErrDenied), ErrIdentity: errors.New("no certificate"),
	} {
		l.pool.cfg.Credential = func(context.Context, Key) (Credential, error) { return Credential{}, err }
		_, got := l.pool.Open(t.Context(), l.key, l.target(l.key))
		if cause, _ := errors.AsType[Cause](got); cause != want {
			t.Errorf("%v: %v, want %v", err, got, want)
		}
	}
}
