// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/rate"
)

// Census is the tunnels that arrive at a pod, at its Listener of each IP version, by
// their holders. It decides who gets a place when there are few: a peer's excess ends at
// itself.
//
//	a holder has its most       one of its own idle tunnels makes room, else the oldest that
//	                            takes no new streams, else it is refused
//	all places are taken        the idle tunnel of the holder with the most makes room
//	and none of them is idle    the identity with the most loses a tunnel to one that
//	                            has less than half of that; others are refused
//
// All identities of another trust domain count as one: its CA makes as many as it likes.
// None of them takes the place of a tunnel of ours that is in use. Those of domains of which
// nobody is let in have few places in all, enough to be told so.
//
// A tunnel that was asked to go may still open a stream. Its place is another's only for
// leaveTimeout (dismiss.go), and of all tunnels there are no more than hardLimit.
type Census struct {
	mu        sync.Mutex // guards what follows, and conn.dismissed
	holders   map[holder]*holding
	peers     map[spiffeid.ID]int // tunnels of a payer, whatever its addresses
	size      int
	unawaited int         // of size: of domains of which nobody is let in
	leaving   int         // of size: asked to go, and not gone yet
	dismissed []dismissal // of them, those that may stay nevertheless; the oldest first
}

// holder is who holds tunnels: a payer at an address. Replicas of one
// identity have addresses of their own, so none suffers for another.
type holder struct {
	peer spiffeid.ID
	addr netip.Addr
}

// holding is the tunnels of a holder.
type holding struct {
	tunnels   []*conn // oldest first
	leaving   int     // of them
	tolerance tolerance
}

// tolerance is what a holder has left of rejectRate, in all of its tunnels. A holding
// without all of it outlives its last tunnel: a new one does not renew it.
type tolerance struct {
	mu   sync.Mutex // a leaf
	left rate.Left
}

// spend notes a request that was rejected, and reports whether that may go on.
func (p *tolerance) spend() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left.Spend(rejectRate)
}

// whole reports that nothing is missing, so that nobody needs to remember it.
func (p *tolerance) whole() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.left.Whole(rejectRate)
}

func (h *holding) staying() int { return len(h.tunnels) - h.leaving }

// NewCensus returns the census of one more pod.
func NewCensus() *Census {
	return &Census{holders: make(map[holder]*holding), peers: make(map[spiffeid.ID]int)}
}

func holderOf(c *conn) holder { return holder{c.payer, c.remote.Addr()} }

// payerOf is for whom what a peer uses is counted: the peer itself or, if it is of another
// trust domain than own, all of that.
func payerOf(peer spiffeid.ID, own spiffeid.TrustDomain) spiffeid.ID {
	if own.IsZero() || peer.MemberOf(own) {
		return peer
	}
	return peer.TrustDomain().ID()
}

// place finds room for a tunnel that is about to be added; mu is held. The caller calls
// makeRoom, if it is not nil, without locks.
func (ce *Census) place(c *conn, most int) (makeRoom func(), err error) {
	ce.recount(time.Now())
	if c.unawaited && ce.unawaited >= unawaitedLimit {
		return nil, fmt.Errorf("%w: no policy lets in anybody of the trust domain %v, and %d tunnels of such domains are open", ErrLimit, c.peer.TrustDomain(), ce.unawaited)
	}
	who := holderOf(c)
	h, each := ce.holders[who], mostOfHolder(most)
	room := ce.size < hardLimit(most)
	if h != nil && h.staying() >= each {
		if idle, _ := h.idlest(nil); idle != nil && room && len(h.tunnels) < leavingFactor*each {
			return ce.dismiss(idle), nil
		}
		if old := h.oldestRetired(); old != nil {
			return ce.expel(old, errOutlived), nil
		}
		return nil, fmt.Errorf("%w: %v at %v has %d tunnels, the most that a peer may", ErrLimit, who.peer, who.addr, len(h.tunnels))
	}
	if room && ce.size-ce.leaving < most {
		return nil, nil
	}
	if idle := ce.idlest(0, nil); idle != nil && ce.size < leavingFactor*most {
		return ce.dismiss(idle), nil
	}
	if victim := ce.overgrown(c); victim != nil {
		return ce.expel(victim, errOvergrown), nil
	}
	return nil, fmt.Errorf("%w: %d tunnels are in use, %d of them by %v", ErrLimit, ce.size, ce.peers[who.peer], who.peer)
}

// mostOfHolder is how many tunnels one holder may have of all.
func mostOfHolder(all int) int { return max(all/holderShare, holderLeast) }

// hardLimit is how many tunnels there may be with those that were asked to go: beyond,
// whoever comes takes the place of one that ends at once.
func hardLimit(most int) int { return (1 + leavingFactor) * most }

// idlest is the idle tunnel that must go first: of the holder with the most, of those
// with equally many the one whose identity has the most. Holders of no more than spared
// are left alone, and tunnels of another Listener than at, if that is not nil.
func (ce *Census) idlest(spared int, at *Listener) (found *conn) {
	var most *holding
	var peers int
	var since time.Time
	for who, h := range ce.holders {
		n := ce.peers[who.peer]
		if h.staying() <= spared || most != nil && (h.staying() < most.staying() || h.staying() == most.staying() && n < peers) {
			continue
		}
		c, usedAt := h.idlest(at)
		if c == nil {
			continue
		}
		if most == nil || h.staying() > most.staying() || n > peers || usedAt.Before(since) {
			found, most, peers, since = c, h, n, usedAt
		}
	}
	return found
}

// idlest is the holder's tunnel, at a Listener if that is not nil, that has been idle for
// longest.
func (h *holding) idlest(at *Listener) (found *conn, since time.Time) {
	for _, c := range h.tunnels {
		if c.dismissed || at != nil && !at.has(c) {
			continue
		}
		if usedAt, idle := c.idleSince(); idle && (found == nil || usedAt.Before(since)) {
			found, since = c, usedAt
		}
	}
	return found, since
}

// oldestRetired is the holder's oldest tunnel that only lives on for open streams, nil
// if there is none. Each rotation of certificates may leave one: streams that stay
// open for weeks must not keep new ones out.
func (h *holding) oldestRetired() *conn {
	for _, c := range h.tunnels {
		if !c.dismissed && c.isRetired() {
			return c
		}
	}
	return nil
}

func (c *conn) isRetired() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.retired
}

// overgrown is a tunnel in use of the payer with the most of all, if that is
// twice what the newcomer's will have: its youngest, at the address with the most. If all of
// them were asked to go, it is the first of these. One of another trust domain finds none
// but of such.
func (ce *Census) overgrown(c *conn) (victim *conn) {
	newcomer, foreign := c.payer, c.payer != c.peer
	largest, n := newcomer, 2*(ce.peers[newcomer]+1)
	for peer, count := range ce.peers {
		if peer != newcomer && count >= n && (!foreign || peer.Path() == "") {
			largest, n = peer, count
		}
	}
	if largest == newcomer {
		return nil
	}
	var most *holding
	for who, h := range ce.holders {
		if who.peer == largest && (most == nil || h.staying() > most.staying()) {
			most = h
		}
	}
	for _, c := range slices.Backward(most.tunnels) {
		if !c.dismissed {
			return c
		}
	}
	return ce.dismissedOf(largest)
}

func (ce *Census) add(c *conn) {
	who := holderOf(c)
	h := ce.holders[who]
	if h == nil {
		h = new(holding)
		ce.holders[who] = h
	}
	h.tunnels = append(h.tunnels, c)
	c.tolerance = &h.tolerance
	ce.peers[c.payer]++
	if c.unawaited {
		ce.unawaited++
	}
	if ce.size++; len(ce.holders) > 2*ce.size {
		ce.forget()
	}
}

// forget drops holders without tunnels that have all of their tolerance again.
func (ce *Census) forget() {
	for who, h := range ce.holders {
		if len(h.tunnels) == 0 && h.tolerance.whole() {
			delete(ce.holders, who)
		}
	}
}

func (ce *Census) remove(c *conn) {
	who := holderOf(c)
	h := ce.holders[who]
	h.tunnels = slices.DeleteFunc(h.tunnels, func(other *conn) bool { return other == c })
	ce.undismiss(c)
	if len(h.tunnels) == 0 && h.tolerance.whole() {
		delete(ce.holders, who)
	}
	if c.unawaited {
		ce.unawaited--
	}
	if ce.peers[c.payer]--; ce.peers[c.payer] == 0 {
		delete(ce.peers, c.payer)
	}
	ce.size--
}

// of yields the tunnels of a Listener.
func (ce *Census) of(l *Listener) iter.Seq[*conn] {
	return func(yield func(*conn) bool) {
		for _, h := range ce.holders {
			for _, c := range h.tunnels {
				if l.has(c) && !yield(c) {
					return
				}
			}
		}
	}
}

// has reports that the tunnel is this Listener's.
func (l *Listener) has(c *conn) bool { return c.hooks == &l.hooks }

// idleSince is since when nobody needs the tunnel; false if somebody does, or if
// it ends anyway.
func (c *conn) idleSince() (at time.Time, idle bool) {
	c.mu.Lock()
	defer c.unlock()
	return c.usedAt, c.err == nil && !c.retired && c.unused() && !c.usedAt.IsZero()
}

// endOf looks for this Listener's end of the tunnel whose client's is c.
func (l *Listener) endOf(c *conn) *conn {
	l.cfg.Census.mu.Lock()
	defer l.cfg.Census.mu.Unlock()
	for end := range l.cfg.Census.of(l) {
		if end.remote == c.local && end.local == c.remote {
			return end
		}
	}
	return nil
}
