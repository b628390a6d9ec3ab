// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"cmp"
	"math/rand/v2"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

const (
	overdueAt = 0.75 // of a lifetime

	firstBackoff = 500 * time.Millisecond
	maxBackoff   = time.Minute
	waitBackoff  = time.Second // while a connection waits

	minRenewal = time.Second // whatever an issuer's lifetimes are

	// latest is the part of a lifetime that an issuer's wish may put a renewal off to.
	latest = 0.70
	// draws is of how many moments the quietest is taken.
	draws = 8

	// A renewal that a change of roots asks for comes within a part of the lifetime, at
	// most half a minute, and not before the SVID had a part of it.
	changePart    = 0.05
	maxChangeWait = 30 * time.Second
	restPart      = 0.10
)

// Urgencies, in the order in which attempts get a free slot.
const (
	expired    = iota // it had a valid SVID
	awaited           // no valid SVID, and a connection waits for it
	missing           // no valid SVID
	background        // to be renewed
)

func (e *entry) urgency(now time.Time) int {
	switch {
	case e.current.valid(now):
		return background
	case e.current != nil:
		return expired
	case e.waiting > 0:
		return awaited
	}
	return missing
}

// renewal is when e's SVID is renewed: when its issuer wishes, or somewhere before half of
// its lifetime. Of some moments it is the one that is farthest from other renewals:
// random ones alone would leave some seconds with three times as many as others.
// s.mu is held.
func (s *Store) renewal(e *entry, now time.Time) time.Time {
	own := e.current
	if wish := own.renewAfter; wish > 0 {
		return own.issued.Add(max(minRenewal, min(wish, fraction(own.lifetime(), latest))))
	}
	var moments [draws]time.Time
	for i := range moments {
		moments[i] = own.issued.Add(max(minRenewal, identity.RenewAfter(own.lifetime())))
	}
	return s.quietest(e, moments)
}

// quietest is that of the moments that is farthest from the nearest attempt of another
// identity than e; s.mu is held.
func (s *Store) quietest(e *entry, moments [draws]time.Time) time.Time {
	var room [draws]time.Duration
	for i := range room {
		room[i] = time.Hour
	}
	for _, other := range s.entries { // once: there may be thousands
		if other == e {
			continue
		}
		for i, at := range moments {
			room[i] = min(room[i], other.due.Sub(at).Abs())
		}
	}
	best := 0
	for i := range room {
		if room[i] > room[best] {
			best = i
		}
	}
	return moments[best]
}

// afterChange is when an SVID is renewed that no root vouches for any more. All nodes of
// a mesh hear of that at the same moment.
func (e *entry) afterChange(now time.Time) time.Time {
	due := now.Add(e.changeWait())
	if rested := e.current.issued.Add(fraction(e.life(), restPart)); due.Before(rested) {
		return rested
	}
	return due
}

// changeWait is somewhere in the time in which all nodes renew.
func (e *entry) changeWait() time.Duration {
	return rand.N(min(maxChangeWait, fraction(e.life(), changePart)) + 1)
}

// taintWait is for how long an SVID is kept that a tainted authority signed again. The
// replica that gave it is behind by a moment, mostly, and the root may go in a minute or two;
// one that is behind for long is asked more and more seldom.
func (e *entry) taintWait() time.Duration {
	longest := min(maxChangeWait<<min(e.tainted-1, 10), fraction(e.life(), restPart))
	return longest/2 + rand.N(longest/2+1)
}

// life is the lifetime of the SVID that there is, as renewals are planned by it.
func (e *entry) life() time.Duration { return max(minRenewal, e.current.lifetime()) }

// overdue reports whether the renewal has failed for so long that an operator
// should know.
func (s *svid) overdue(now time.Time) bool {
	return now.After(s.issued.Add(fraction(s.lifetime(), overdueAt)))
}

func fraction(d time.Duration, part float64) time.Duration { return time.Duration(float64(d) * part) }

// backoff is full jitter over a window that doubles with each failure: up to a
// minute, or a tenth of what the valid SVID has left, whichever is less.
func (e *entry) backoff(now time.Time) time.Duration {
	limit := maxBackoff
	if e.current.valid(now) {
		limit = min(limit, max(firstBackoff, e.current.until.Sub(now)/10))
	} else if e.waiting > 0 {
		limit = waitBackoff
	}
	window := firstBackoff
	for n := 1; n < e.failures && window < limit; n++ {
		window *= 2
	}
	return rand.N(min(window, limit))
}

// hurry brings the next attempt forward for a connection that waits.
func (e *entry) hurry(now time.Time) {
	soon := now
	if e.failures > 0 {
		soon = e.attempted.Add(rand.N(waitBackoff))
	}
	if soon.Before(e.due) {
		e.due = soon
	}
}

// mostUrgent returns those identities that are due and most urgent, and how long until
// another is due; s.mu is held.
func (s *Store) mostUrgent(now time.Time) (due []*entry, urgency int, wait time.Duration) {
	wait = clockCheck
	for _, e := range s.entries {
		if e.wave != nil {
			continue
		}
		if d := e.due.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		switch u := e.urgency(now); {
		case len(due) == 0 || u < urgency:
			due, urgency = append(due[:0], e), u
		case u == urgency:
			due = append(due, e)
		}
	}
	return due, urgency, wait
}

// inTurn compares two of one urgency: the one whose SVID ends first is asked for first,
// then the one that has been due longest.
func inTurn(a, b *entry) int {
	return cmp.Or(a.current.ends().Compare(b.current.ends()), a.due.Compare(b.due))
}
