// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"math/rand/v2"
	"time"
)

const (
	// Renewed somewhere in between, so that SVIDs which were fetched together,
	// say by a node that starts, are not renewed together.
	renewFrom, renewTo = 0.45, 0.60
	overdueAt          = 0.75

	firstBackoff = 500 * time.Millisecond
	maxBackoff   = time.Minute
	waitBackoff  = time.Second // while a connection waits

	minRenewal = time.Second // whatever an issuer's lifetimes are
)

// Urgencies, in the order in which attempts get a free slot.
const (
	awaited    = iota // no valid SVID, and a connection waits for it
	missing           // no valid SVID
	background        // to be renewed
)

func (e *entry) urgency(now time.Time) int {
	switch {
	case e.current.valid(now):
		return background
	case e.waiting > 0:
		return awaited
	}
	return missing
}

// renewal is when an SVID is renewed.
func renewal(s *svid) time.Time {
	part := renewFrom + rand.Float64()*(renewTo-renewFrom)
	return s.issued.Add(max(minRenewal, fraction(s.lifetime(), part)))
}

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

// next picks the identity to ask for now, or nil: the most urgent that is due,
// then the one due longest. It says how long until another is due; s.mu is held.
func (s *Store) next(now time.Time) (e *entry, wait time.Duration) {
	wait = clockCheck
	for _, other := range s.entries {
		if other.stop != nil {
			continue
		}
		if d := other.due.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		if e == nil || before(other, e, now) {
			e = other
		}
	}
	return e, wait
}

func before(a, b *entry, now time.Time) bool {
	if x, y := a.urgency(now), b.urgency(now); x != y {
		return x < y
	}
	return a.due.Before(b.due)
}
