// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// held counts the identities in use.
func (s Stats) held() (n int) {
	for _, of := range s.Held {
		n += of
	}
	return n
}

// What is overdue or has expired must be seen: an SVID that vanished from the
// metrics when it expired would take its alarm with it.
func TestSVIDThatIsNotRenewedStaysInSight(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		var issued, until time.Time
		want := func(state State, failing bool) {
			t.Helper()
			c := r.Certificate(web)
			if c.State != state || !c.Until.Equal(until) || (c.Error != "") != failing {
				t.Errorf("after %v: %+v, want %s", time.Since(issued), c, state)
			}
			if stats := r.Stats(); stats.Held[state] != 1 || stats.held() != 1 || len(stats.Held) != 4 {
				t.Errorf("after %v: %v, want %s", time.Since(issued), stats.Held, state)
			}
			life := r.Lives()[web.String()]
			if life.State != state || !life.Until.Equal(until) || life.Next.IsZero() || (life.Lifetime > 59*time.Minute) != (state != Missing) {
				t.Errorf("after %v: %+v", time.Since(issued), life)
			}
		}
		r.issuer.set(func() { r.issuer.err = errDown })
		hold(t, r, web)
		synctest.Wait()
		want(Missing, true)
		r.issuer.set(func() { r.issuer.err = nil })
		pass(maxBackoff)
		r.Store.mu.Lock()
		current := r.entries[web].current
		issued, until = current.issued, current.until
		r.Store.mu.Unlock()
		r.issuer.set(func() { r.issuer.err = errDown })
		want(Valid, false)
		pass(time.Until(issued.Add(fraction(until.Sub(issued), identity.RenewTo)))) // the renewal failed: nobody needs to know yet
		want(Valid, true)
		pass(time.Until(issued.Add(fraction(until.Sub(issued), overdueAt))) + time.Second)
		want(Overdue, true)
		pass(time.Until(until))
		want(Expired, true)
		pass(24 * time.Hour)
		want(Expired, true)
		r.issuer.set(func() { r.issuer.err = nil })
		pass(maxBackoff)
		until = r.leaf(web).NotAfter
		want(Valid, false)
		if got := r.Certificate(db); got.State != Missing {
			t.Errorf("nobody holds it: %+v", got)
		}
	})
}

// A001-16: each kind of failure counts under its own word, and of each identity it is
// known when the CA is asked next.
func TestFailuresCountByTheirReason(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		fail := func(err error) { r.issuer.set(func() { r.issuer.err = err }) }
		kinds := map[Reason]error{
			Unreachable:     problem(Unreachable, "nobody answers"),
			"token_expired": problem("token_expired", "yesterday"),
			notPlaced:       problem(notPlaced, "no pod there"),
			tooManyRequests: problem(tooManyRequests, "later"),
			Failed:          errDown, // without a word
		}
		fail(kinds[Failed])
		hold(t, r, web)
		synctest.Wait()
		for reason, err := range kinds {
			fail(err)
			before := r.Stats().Failed
			next := r.Lives()[web.String()].Next
			if wait := time.Until(next); wait < 0 || wait > maxBackoff {
				t.Errorf("the next attempt is in %v", wait)
			}
			pass(time.Until(next) + 10*time.Millisecond)
			for word, n := range r.Stats().Failed {
				if moved := n != before[word]; moved != (word == reason) {
					t.Errorf("after %q: %s went from %d to %d", err, word, before[word], n)
				}
			}
		}
		if n := len(r.Stats().Failed); n != len(kinds) {
			t.Errorf("%d words, want %d", n, len(kinds))
		}
	})
}
