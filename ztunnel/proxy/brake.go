// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/rate"
)

// brake bounds what a peer costs whose connections come to nothing. Its other
// connections, and its tunnels, go on: many honest clients may call a service that
// is down.
//
//	the app refuses       after a burst, most are answered with the last refusal and
//	                      without a dial, until a dial succeeds
//	many apps refuse      the same holds for all that refuse the peer together; after
//	                      another burst, apps of which nothing is known are not dialled
//	                      for it, "limit": it looks for open ports
//	broken off at once    after a burst, the peer's connections wait for their turn;
//	                      those whose turn is over a second away are refused, "limit"
type brake struct {
	mu    sync.Mutex // guards what follows
	dead  map[approach]*refusal
	peers map[peer]*hapless
}

// peer is one that opens connections: a proven identity, or all of another trust domain, at
// an address.
type peer struct {
	identity string
	addr     netip.Addr
}

// approach is a peer and the app that it wants.
type approach struct {
	peer   peer
	target netip.AddrPort
}

// refusal is how the dials of an approach fail.
type refusal struct {
	left rate.Left // dials
	err  error     // of the last
	at   time.Time
}

// hapless is a peer some of whose connections came to nothing.
type hapless struct {
	at    time.Time // of the last such
	empty rate.Left // connections that were broken off at once
	next  time.Time // when the last of those that wait for this has its turn
	again rate.Left // dials to apps that refused it a moment ago
	first rate.Left // dials to others, which refused it
}

var (
	deadRate   = rate.Limit{PerSecond: 50, Burst: 100}   // dials to an app that refuses
	closedRate = rate.Limit{PerSecond: 50, Burst: 200}   // dials of one peer to all apps that refuse, again and first
	emptyRate  = rate.Limit{PerSecond: 500, Burst: 1000} // connections that were broken off at once
)

const (
	deadFor    = time.Second // how long a refusal says something about the next dial
	turnMost   = time.Second // that a connection waits for its turn
	brakesMost = 1024        // approaches, and peers, of one pod that are remembered
	hastyFor   = time.Second // after its beginning, a connection is not broken off at once any more
	hastyBytes = 64          // of both sides, which make no request and answer worth the dial
)

// brake notes how a connection ended that was carried since began, if it was broken
// off at once. One that both sides close is not, whatever was said: it may be a probe.
func (c *connection) brake(err error, began time.Time) {
	if err == nil || c.direction == outbound || c.src.identity == "" {
		return
	}
	if sent, received := c.carried(); sent+received == 0 || c.hasty(err, began, sent, received) {
		c.pod.brake.ended(c.peer())
	}
}

// hasty reports that a connection was reset before it can have been of use: a byte or
// two must not make one that costs the same look honest. It does not look at c.start,
// since those that waited for their turn would be spared for that.
func (c *connection) hasty(err error, began time.Time, sent, received uint64) bool {
	if wordOf(err) != Reset || c.ctx.Err() != nil || time.Since(began) > hastyFor {
		return false
	}
	return sent == 0 || sent+received <= hastyBytes // sent is what the app answered
}

// peer counts all identities of another trust domain as one: its CA makes as many as it
// likes.
func (c *connection) peer() peer {
	identity := c.src.identity
	if id, err := spiffeid.FromString(identity); err == nil && c.foreign(id) {
		identity = id.TrustDomain().IDString()
	}
	return peer{identity, c.src.addr.Addr()}
}

// wait returns when a connection of p may go on, or an error if that is too late. Before it
// waits, it calls waits.
func (b *brake) wait(ctx context.Context, p peer, waits func()) error {
	delay := b.turn(p)
	switch {
	case delay == 0:
		return nil
	case delay > turnMost:
		return fail(Limit, fmt.Errorf("%v opens more than %v connections a second that are broken off at once", p, emptyRate.PerSecond))
	}
	waits()
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// turn is how long the next connection of p has to wait. Whoever is told more than
// turnMost has no turn.
func (b *brake) turn(p peer) time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	t := b.peers[p]
	if t == nil || !t.empty.Spent(emptyRate) {
		return 0
	}
	now := time.Now()
	next := now
	if t.next.After(now) {
		next = t.next
	}
	next = next.Add(time.Duration(float64(time.Second) / emptyRate.PerSecond))
	delay := next.Sub(now)
	if delay <= turnMost {
		t.next = next
	}
	return delay
}

// ended notes a connection of p that was broken off at once.
func (b *brake) ended(p peer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hapless(p).empty.Spend(emptyRate)
}

// hapless finds or begins what is known of a peer; mu is held.
func (b *brake) hapless(p peer) *hapless {
	h := b.peers[p]
	if h == nil {
		if b.peers == nil {
			b.peers = make(map[peer]*hapless)
		}
		forgetOldest(b.peers, func(h *hapless) time.Time { return h.at })
		h = new(hapless)
		b.peers[p] = h
	}
	h.at = time.Now()
	return h
}

// forgetOldest makes room for one more. Whoever forgot all would give each a new burst.
func forgetOldest[K comparable, V any](m map[K]V, at func(V) time.Time) {
	if len(m) < brakesMost {
		return
	}
	var oldest K
	var since time.Time
	for k, v := range m {
		if when := at(v); since.IsZero() || when.Before(since) {
			oldest, since = k, when
		}
	}
	delete(m, oldest)
}

// refusal is how the app answers that a wants, if that need not be tried again now.
func (b *brake) refusal(a approach) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	r, h := b.dead[a], b.peers[a.peer]
	if r != nil && time.Since(r.at) > deadFor {
		delete(b.dead, a)
		r = nil
	}
	switch {
	case r == nil && h != nil && h.first.Spent(closedRate):
		return fail(Limit, fmt.Errorf("%v asks for more than %v apps a second that refuse it", a.peer, closedRate.PerSecond))
	case r == nil, r.left.Spend(deadRate) && b.hapless(a.peer).again.Spend(closedRate):
		return nil
	}
	return r.err
}

// dialled notes how a dial ended.
func (b *brake) dialled(a approach, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		delete(b.dead, a)
		return
	case wordOf(err) != Dial || errors.Is(err, context.Canceled):
		return // it says nothing of the app
	}
	r := b.dead[a]
	if r == nil {
		if b.dead == nil {
			b.dead = make(map[approach]*refusal)
		}
		forgetOldest(b.dead, func(r *refusal) time.Time { return r.at })
		r = new(refusal)
		b.dead[a] = r
		b.hapless(a.peer).first.Spend(closedRate)
	}
	r.err, r.at = fmt.Errorf("not tried again so soon: %w", err), time.Now()
}
