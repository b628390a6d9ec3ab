// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"testing"
	"testing/synctest"
	"time"
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
			expiries := r.Expiries()
			if got, ok := expiries[web.String()]; ok != (state != Missing) || !got.Equal(until) {
				t.Errorf("after %v: %v", time.Since(issued), expiries)
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
		pass(time.Until(issued.Add(fraction(until.Sub(issued), renewTo)))) // the renewal failed: nobody needs to know yet
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
