// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/rate"
)

// What is renewed after 49 % of its life at the latest lives for half of it without a
// CA: at an hour, any 30 minutes go by unnoticed, whenever they begin. Here they begin
// when all renewals are due, as late as they may be.
// A001-15: the CA away for 30 minutes takes no identity away.
func TestHalfALifeWithoutTheCAIsNotNoticed(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		var ids []spiffeid.ID
		for i := range 10 {
			ids = append(ids, spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/app-%d", i)))
		}
		hold(t, r, ids...)
		synctest.Wait()
		pass(time.Until(r.latestRenewal(t)) - time.Millisecond)
		back := time.Now().Add(30 * time.Minute)
		r.issuer.set(func() { r.issuer.err = errDown })
		for away := range 31 * 60 {
			if time.Until(back) <= 0 {
				r.issuer.set(func() { r.issuer.err = nil })
			}
			pass(time.Second)
			if held := r.Stats().Held; held[Expired]+held[Missing] > 0 {
				t.Fatalf("%d s after the CA went: %v", away, held)
			}
		}
		if held := r.Stats().Held; held[Valid] != len(ids) {
			t.Errorf("a minute after the CA came back: %v", held)
		}
	})
}

// latestRenewal puts each renewal off to the latest moment at which it may be, and
// returns the first of them.
func (r *rig) latestRenewal(t *testing.T) (first time.Time) {
	t.Helper()
	r.Store.mu.Lock()
	defer r.Store.mu.Unlock()
	for _, e := range r.entries {
		e.due = e.current.issued.Add(fraction(e.current.lifetime(), identity.RenewTo))
		if first.IsZero() || e.due.Before(first) {
			first = e.due
		}
	}
	return first
}

// When the first identity ends is known at the moment that the CA goes, also where clocks
// may be off, so that certificates are taken for longer than they say.
func TestTheFirstFailureComesWhenTheDumpSays(t *testing.T) {
	for _, row := range []struct{ ttl, skew time.Duration }{{time.Hour, 0}, {25 * time.Second, 15 * time.Minute}} {
		synctest.Test(t, func(t *testing.T) {
			authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: td, ClockSkew: row.skew})
			if err != nil {
				t.Fatal(err)
			}
			i := &issuer{ca: authority}
			r := run(t, Config{TTL: row.ttl, ClockSkew: row.skew}, i, i)
			holdMany(t, r, 0, 5)
			pass(row.ttl + rand.N(row.ttl))
			i.set(func() { i.err = errDown })
			first := slices.MinFunc(r.Dump().([]dumpedSVID), func(a, b dumpedSVID) int { return a.Renewal.Until.Compare(b.Renewal.Until) })
			predicted, gone := time.Until(first.Renewal.Until), time.Now()
			for r.Stats().Held[Expired] == 0 && time.Since(gone) < 2*predicted {
				pass(predicted / 500)
			}
			if off := (time.Since(gone) - predicted).Abs(); predicted < row.ttl/2 || off > predicted/50 {
				t.Errorf("life %v, skew %v: predicted %v, it came after %v", row.ttl, row.skew, predicted, time.Since(gone))
			}
		})
	}
}

// play is the schedule of a Store, played without keys and signatures, of which there
// would be 100,000: who is asked for when, and what becomes of it.
type play struct {
	*Store
	life    time.Duration
	waves   []flight
	ca      rate.Left  // of what one node may ask, as the CA counts it
	allowed rate.Limit // none: as much as it likes
	back    time.Time  // when the CA is there again
}

type flight struct {
	*wave
	ends time.Time
}

const (
	lookedFor = maxAttempt             // a request, while nobody answers
	signsFor  = 300 * time.Millisecond // a request that is answered
)

func newPlay(count int, issued func(n int) time.Time, life time.Duration, allowed rate.Limit) *play {
	p := &play{Store: New(Config{Issuer: &many{}, Log: quiet}), life: life, allowed: allowed}
	for n := range count {
		e := &entry{id: service(n), holds: 1, changed: make(chan struct{})}
		e.current = p.svid(issued(n))
		e.due = e.current.issued.Add(fraction(life, identity.RenewTo))
		p.entries[e.id] = e
	}
	return p
}

func (p *play) svid(issued time.Time) *svid {
	return &svid{issued: issued, until: issued.Add(p.life), granted: p.life}
}

// step lets what is due begin and what has ended end, and goes to when something is next.
func (p *play) step(t *testing.T) {
	t.Helper()
	now := time.Now()
	p.waves = slices.DeleteFunc(p.waves, func(w flight) bool {
		if now.Before(w.ends) {
			return false
		}
		p.inFlight--
		for _, e := range w.entries {
			e.wave = nil
			p.end(t, e, now)
		}
		return true
	})
	for p.inFlight < maxInFlight {
		w, _ := p.form(now)
		if w == nil {
			break
		}
		p.inFlight++
		ends := now.Add(signsFor)
		if now.Before(p.back) { // Client asks again and again
			ends = now.Add(lookedFor)
			if ends.After(p.back) {
				ends = p.back.Add(signsFor)
			}
		}
		p.waves = append(p.waves, flight{w, ends})
	}
	time.Sleep(min(time.Second, max(100*time.Millisecond, time.Until(p.back)))) // finer would only take longer
}

func (p *play) end(t *testing.T, e *entry, now time.Time) {
	t.Helper()
	o := &outcome{e: e}
	switch {
	case now.Before(p.back):
		o.err = errDown
	case p.allowed.Burst > 0 && !p.ca.Spend(p.allowed):
		o.err = &Problem{Reason: tooManyRequests, After: p.ca.Wait(p.allowed)}
	default:
		o.fresh = p.svid(now)
		if left := e.current.until.Sub(now); left <= 0 {
			t.Errorf("%v was renewed %v too late", e.id, -left)
		}
	}
	p.settle(o, now)
}

// A001-15: of 2,000 identities none ends while the CA is away for 30 minutes at an hour
// of life, whose renewals are due from when it begins on: they came as fast as the CA lets
// one node ask, and must renew as fast, too. Of fewer, those that all came at once, and those
// that came at any time.
func TestTwoThousandIdentitiesOutliveAnOutage(t *testing.T) {
	const life, outage = time.Hour, 30 * time.Minute
	ofCA := rate.Limit{PerSecond: 50, Burst: 200} // identity/server's
	for name, row := range map[string]struct {
		count   int
		issued  func(n int) time.Duration
		allowed rate.Limit
	}{
		"all at once":           {400, func(int) time.Duration { return 0 }, rate.Limit{}},
		"as the CA lets a node": {2000, func(n int) time.Duration { return time.Duration(max(0, n-200)) * time.Second / 50 }, ofCA},
		"at any time":           {400, func(int) time.Duration { return rand.N(fraction(life, identity.RenewTo)) }, ofCA},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				p := newPlay(row.count, func(n int) time.Time { return start.Add(row.issued(n)) }, life, row.allowed)
				begins := start.Add(fraction(life, identity.RenewTo))
				time.Sleep(time.Until(begins))
				p.back = begins.Add(outage)
				for end := p.back.Add(2 * time.Minute); time.Now().Before(end); {
					p.step(t)
				}
				first := slices.MinFunc(slices.Collect(maps.Values(p.entries)), func(a, b *entry) int {
					return a.current.until.Compare(b.current.until)
				})
				if left := time.Until(first.current.until); left < 0 || p.issued < uint64(row.count) {
					t.Errorf("%v has %v left, %d were renewed", first.id, left, p.issued)
				}
				t.Logf("%d attempts failed", p.failed[Failed]+p.failed[tooManyRequests])
			})
		})
	}
}
