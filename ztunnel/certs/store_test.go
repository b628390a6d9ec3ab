// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

var always = context.Background()

func TestHoldPrefetches(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		if got := r.Standing(); got.Ready || got.Reason != NotAsked {
			t.Errorf("before it was asked: %+v", got)
		}
		hold(t, r, web)
		synctest.Wait()
		start := time.Now()
		if _, _, err := r.Server(always, web); err != nil {
			t.Fatal(err)
		}
		if time.Since(start) != 0 || !r.Standing().Ready {
			t.Error("not prefetched")
		}
		if rotated := r.rotations(); len(rotated) != 0 {
			t.Errorf("the first SVID rotated %v", rotated)
		}
	})
}

// A001-13: one certificate for both roles, and one request for all pods of an identity.
func TestOneSVIDPerServiceAccount(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web, web, web, db)
		synctest.Wait()
		if n := len(r.issuer.requests()); n != 2 {
			t.Errorf("%d requests for two identities", n)
		}
		if stats := r.Stats(); stats.Held[Valid] != 2 || stats.Issued != 2 {
			t.Errorf("%+v", stats)
		}
	})
}

// A002-8: renewed long before the end.
func TestRenewalIsBetween37And49PercentFromIssuance(t *testing.T) {
	for _, ttl := range []time.Duration{25 * time.Second, time.Minute, time.Hour, 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, newCA(t, td), ttl)
			hold(t, r, web)
			synctest.Wait()
			last := r.issuer.requests()[0].at
			spread := make(map[time.Duration]bool)
			for range 12 {
				before := r.leaf(web)
				pass(time.Until(r.due(web)))
				asked := r.issuer.requests()
				if len(asked) != 1 || r.leaf(web).Equal(before) {
					t.Fatalf("TTL %v: %d requests when the renewal is due", ttl, len(asked))
				}
				after := asked[0].at.Sub(last)
				// A certificate's times are whole seconds: it may live up to one less.
				if after < fraction(ttl-time.Second, identity.RenewFrom) || after > fraction(ttl, identity.RenewTo) {
					t.Errorf("TTL %v: renewed after %v", ttl, after)
				}
				spread[after] = true
				last = asked[0].at
			}
			if len(spread) < 10 {
				t.Errorf("TTL %v: no jitter: %v", ttl, spread)
			}
		})
	}
}

// A001-17: certificate and key are replaced together.
func TestEachRenewalHasItsOwnKeyAndIsAnnounced(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		keys := make(map[string]bool)
		for range 5 {
			spki := string(r.leaf(web).RawSubjectPublicKeyInfo)
			if keys[spki] {
				t.Error("a key was used twice")
			}
			keys[spki] = true
			r.rotations()
			pass(time.Until(r.due(web)))
			if rotated := r.rotations(); !slices.Equal(rotated, []spiffeid.ID{web}) {
				t.Errorf("rotated %v", rotated)
			}
		}
	})
}

// due is when the next attempt for id is.
func (r *rig) due(id spiffeid.ID) time.Time {
	r.Store.mu.Lock()
	defer r.Store.mu.Unlock()
	return r.entries[id].due
}

func TestKeyBeforeTheLastRotationIsForgotten(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		var keys []*privateKey
		for range 3 {
			r.Store.mu.Lock()
			keys = append(keys, r.entries[web].current.key)
			r.Store.mu.Unlock()
			pass(time.Until(r.due(web)))
		}
		for i, want := range []bool{true, true, false} {
			keys[i].mu.RLock()
			if forgotten := keys[i].key == nil; forgotten != want {
				t.Errorf("key %d of 4: forgotten %v, want %v", i, forgotten, want)
			}
			keys[i].mu.RUnlock()
		}
	})
}

// A001-15: with the CA down nothing is lost while the leaf is valid.
func TestValidSVIDIsKeptWhileTheCAIsDown(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		first := r.leaf(web)
		r.issuer.set(func() { r.issuer.err = errDown })
		pass(59 * time.Minute)
		if _, _, err := r.Client(always, web, db); err != nil || !r.leaf(web).Equal(first) {
			t.Errorf("Client: %v", err)
		}
		if stats := r.Stats(); stats.Held[Overdue] != 1 || stats.Failed[Failed] == 0 || stats.Held[Valid] != 0 {
			t.Errorf("%+v", stats)
		}
		r.issuer.set(func() { r.issuer.err = nil })
		pass(7 * time.Second) // a tenth of what is left
		if r.leaf(web).Equal(first) {
			t.Error("not renewed after the CA is back")
		}
	})
}

func TestExpiredSVIDIsNeverServed(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		r.issuer.set(func() { r.issuer.err = errDown })
		pass(time.Until(r.leaf(web).NotAfter))
		start := time.Now()
		for _, err := range []error{third(r.Client(always, web, db)), third(r.Server(always, web))} {
			if !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), errDown.Error()) {
				t.Errorf("%v", err)
			}
		}
		if waited := time.Since(start); waited != 2*maxWait {
			t.Errorf("waited %v", waited)
		}
		if got := r.Dump().([]dumpedSVID)[0].State; !strings.HasPrefix(got, "Unavailable: ") {
			t.Errorf("state %q", got)
		}
		r.issuer.set(func() { r.issuer.err = nil })
		if err := third(r.Client(always, web, db)); err != nil {
			t.Errorf("after the CA is back: %v", err)
		}
	})
}

func third[A, B any](_ A, _ B, err error) error { return err }

func TestBackoffIsATenthOfWhatIsLeftAndAMinuteAtMost(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		until := r.leaf(web).NotAfter
		r.issuer.requests()
		r.issuer.set(func() { r.issuer.err = errDown })
		pass(time.Hour)
		asked := r.issuer.requests()
		if len(asked) < 40 || len(asked) > 400 {
			t.Errorf("%d attempts in the hour", len(asked))
		}
		for i := range asked[1:] {
			gap, left := asked[i+1].at.Sub(asked[i].at), until.Sub(asked[i].at)
			if limit := max(firstBackoff, min(maxBackoff, left/10)); gap > limit {
				t.Errorf("attempt %d: %v later, %v before expiry", i, gap, left)
			}
		}
		if gap := asked[1].at.Sub(asked[0].at); gap > firstBackoff {
			t.Errorf("the first retry comes after %v", gap)
		}
	})
}

func TestConnectionWaitsFiveSecondsForAFirstSVID(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		r.issuer.set(func() { r.issuer.err = errDown })
		hold(t, r, web)
		pass(10 * time.Minute)
		r.issuer.requests()
		start := time.Now()
		err := third(r.Client(always, web, db))
		if !errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), errDown.Error()) {
			t.Errorf("%v", err)
		}
		if waited := time.Since(start); waited != maxWait {
			t.Errorf("waited %v", waited)
		}
		if n := len(r.issuer.requests()); n < 2 || n > 100 {
			t.Errorf("%d attempts while it waited", n)
		}

		time.AfterFunc(2*time.Second, func() { r.issuer.set(func() { r.issuer.err = nil }) })
		start = time.Now()
		if err := third(r.Client(always, web, db)); err != nil || time.Since(start) > 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		r.issuer.set(func() { r.issuer.gate = make(chan struct{}) })
		hold(t, r, web)
		ctx, cancel := context.WithCancelCause(always)
		why := errors.New("the app hung up")
		time.AfterFunc(time.Second, func() { cancel(why) })
		start := time.Now()
		if err := third(r.Client(ctx, web, db)); !errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), why.Error()) {
			t.Errorf("%v", err)
		}
		if waited := time.Since(start); waited != time.Second {
			t.Errorf("waited %v", waited)
		}
	})
}

// A002-2: what no pod here is any more is not served.
func TestIdentityThatNoPodHoldsIsNotServed(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		start := time.Now()
		for _, err := range []error{third(r.Client(always, db, web)), third(r.Server(always, db))} {
			if !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%v", err)
			}
		}
		if time.Since(start) != 0 {
			t.Error("waited for nothing")
		}
	})
}

func TestLastReleaseForgetsTheKey(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		first, second := r.Hold(web), r.Hold(web)
		synctest.Wait()
		r.Store.mu.Lock()
		key := r.entries[web].current.key
		//lint:ignore SA1019 no other API reaches the scalar's memory
		words := key.key.(*ecdsa.PrivateKey).D.Bits()
		r.Store.mu.Unlock()

		first()
		first() // more than once is once
		if err := third(r.Server(always, web)); err != nil {
			t.Fatalf("after one release of two: %v", err)
		}
		second()
		if err := third(r.Server(always, web)); !errors.Is(err, ErrNoIdentity) {
			t.Errorf("after the last release: %v", err)
		}
		if _, err := key.Sign(nil, make([]byte, 32), nil); !errors.Is(err, errForgotten) {
			t.Errorf("the key still signs: %v", err)
		}
		for _, word := range words {
			if word != 0 {
				t.Fatal("the scalar is still in memory")
			}
		}
		r.issuer.requests()
		pass(2 * time.Hour)
		if asked := r.issuer.requests(); len(asked) != 0 {
			t.Errorf("renewed what nobody holds: %v", asked)
		}
	})
}

func TestReleaseEndsTheRequestAndTheWaiters(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		r.issuer.set(func() { r.issuer.gate = make(chan struct{}) })
		release := r.Hold(web)
		waited := make(chan error, 1)
		go func() { waited <- third(r.Client(always, web, db)) }()
		synctest.Wait()
		release()
		synctest.Wait()
		select {
		case err := <-waited:
			if !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%v", err)
			}
		default:
			t.Error("the connection still waits")
		}
		if stats := r.Stats(); stats.InFlight != 0 || stats.held() != 0 {
			t.Errorf("%+v", stats)
		}
		r.issuer.set(func() { r.issuer.gate = nil })
		hold(t, r, web)
		synctest.Wait()
		if err := third(r.Client(always, web, db)); err != nil {
			t.Errorf("held again: %v", err)
		}
	})
}

func TestEightRequestsAreInFlightAndConnectionsGoFirst(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		r.issuer.set(func() { r.issuer.gate = make(chan struct{}) })
		for n := range 30 {
			hold(t, r, spiffeid.RequireFromPathf(td, "/ns/shop/sa/warm-%d", n))
		}
		synctest.Wait()
		if n := len(r.issuer.requests()); n != maxInFlight {
			t.Fatalf("%d requests in flight", n)
		}
		hold(t, r, web)
		go r.Client(always, web, db)
		synctest.Wait()
		r.issuer.gate <- struct{}{}
		synctest.Wait()
		if asked := r.issuer.requests(); len(asked) != 1 || asked[0].id != web {
			t.Errorf("a free slot went to %v, not to the connection that waits", asked)
		}
		close(r.issuer.gate)
		pass(6 * time.Second)
		if stats := r.Stats(); stats.Held[Valid] != 31 || r.issuer.most != maxInFlight {
			t.Errorf("%+v, at most %d in flight", stats, r.issuer.most)
		}
	})
}

func TestRenewalsLeaveSlotsFree(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		for n := range 20 {
			hold(t, r, spiffeid.RequireFromPathf(td, "/ns/shop/sa/warm-%d", n))
		}
		pass(time.Second)
		r.issuer.requests()
		r.issuer.set(func() { r.issuer.gate = make(chan struct{}) })
		r.renewAll(time.Now(), "test")
		r.poke()
		pass(5 * time.Second)
		if n := len(r.issuer.requests()); n != maxRenewals {
			t.Errorf("%d renewals in flight", n)
		}
		hold(t, r, web)
		synctest.Wait()
		if asked := r.issuer.requests(); len(asked) != 1 || asked[0].id != web {
			t.Errorf("asked for %v", asked)
		}
	})
}

func TestWrongAnswersAreNotServed(t *testing.T) {
	for _, test := range []struct {
		name   string
		answer func(t *testing.T, r *rig) func(*Issued)
		want   string
	}{
		{"nothing", func(*testing.T, *rig) func(*Issued) { return func(i *Issued) { i.Chain = nil } }, "no certificate"},
		{"no roots", func(*testing.T, *rig) func(*Issued) { return func(i *Issued) { i.Roots = nil } }, "names no root"},
		{"issuer missing", func(*testing.T, *rig) func(*Issued) { return func(i *Issued) { i.Chain = i.Chain[:1] } }, "unknown authority"},
		{"other root", func(t *testing.T, _ *rig) func(*Issued) {
			other := newCA(t, td).Roots()
			return func(i *Issued) { i.Roots = other }
		}, "unknown authority"},
		{"authority in place of a leaf", func(*testing.T, *rig) func(*Issued) {
			return func(i *Issued) { i.Chain = i.Chain[1:] }
		}, "another key"},
		{"another key", func(t *testing.T, r *rig) func(*Issued) {
			chain := signed(t, r, web)
			return func(i *Issued) { i.Chain = chain }
		}, "another key"},
	} {
		t.Run(test.name, func(t *testing.T) {
			story(t, func(t *testing.T, r *rig) {
				change := test.answer(t, r)
				r.issuer.set(func() { r.issuer.change = change })
				hold(t, r, web)
				if err := third(r.Server(always, web)); !errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, want it to say %q", err, test.want)
				}
			})
		})
	}
}

// signed is a chain for id and some key.
func signed(t *testing.T, r *rig, id spiffeid.ID) []*x509.Certificate {
	t.Helper()
	key, err := newPrivateKey("")
	if err != nil {
		t.Fatal(err)
	}
	csr, err := key.csr(id)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := r.issuer.ca.Sign(csr, id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// An issuer that names somebody else for the right key must not make us them.
func TestAnotherIdentityInTheAnswerIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := newCA(t, td)
		store := New(Config{TrustDomain: td, Log: quiet, Issuer: issuerFunc(func(_ context.Context, _ spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
			chain, err := authority.Sign(csr, db, ttl)
			return Issued{Chain: chain, Roots: authority.Roots()}, err
		})})
		runUntilEnd(t, store)
		t.Cleanup(store.Hold(web))
		if err := third(store.Server(always, web)); !errors.Is(err, ErrNoIdentity) || !strings.Contains(err.Error(), "certified "+db.String()) {
			t.Errorf("%v", err)
		}
	})
}

type issuerFunc func(context.Context, spiffeid.ID, []byte, time.Duration) (Issued, error)

func (f issuerFunc) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (Issued, error) {
	return f(ctx, id, csr, ttl)
}

func runUntilEnd(t *testing.T, store *Store) {
	ctx, cancel := context.WithCancel(always)
	done := make(chan error, 1)
	go func() { done <- store.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

func TestIdentitiesOfOthersAreNotAskedFor(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		foreign := spiffeid.RequireFromString("spiffe://example.org/ns/shop/sa/web")
		odd := spiffeid.RequireFromString("spiffe://cluster.local/shop/web")
		hold(t, r, foreign, odd)
		for _, id := range []spiffeid.ID{foreign, odd} {
			if err := third(r.Server(always, id)); !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%v", err)
			}
		}
		if asked := r.issuer.requests(); len(asked) != 0 {
			t.Errorf("asked for %v", asked)
		}
		hold(t, r, web)
		if err := third(r.Client(always, web, foreign)); err == nil {
			t.Error("expects a peer of another trust domain")
		}
	})
}

func TestChangedBundleIsInForceForAllAndAnnounced(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web, db)
		synctest.Wait()
		r.bundles.Store(0)
		next := newCA(t, td)
		both := append(next.Roots(), r.issuer.ca.Roots()...)
		r.issuer.set(func() { r.issuer.roots = both })
		first := r.due(web)
		if r.due(db).Before(first) {
			first = r.due(db)
		}
		pass(time.Until(first)) // one renews, and brings the bundle for both
		if rotated := r.rotations(); len(rotated) != 1 {
			t.Errorf("rotated %v", rotated)
		}
		if n := len(r.roots().roots); n != 2 {
			t.Errorf("%d roots in force", n)
		}
		if n := r.bundles.Load(); n != 1 {
			t.Errorf("the bundle was announced %d times", n)
		}
		// The same two in another order are no change.
		slices.Reverse(both)
		last := r.due(web)
		if r.due(db).Before(last) {
			last = r.due(db)
		}
		pass(time.Until(last))
		if rotated := r.rotations(); len(rotated) != 1 {
			t.Errorf("rotated %v", rotated)
		}
		if n := r.bundles.Load(); n != 1 {
			t.Errorf("the bundle was announced %d times", n)
		}
	})
}

func TestSlowClockDoesNotStretchTheRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := newCA(t, td)
		time.Sleep(2 * time.Hour)
		key, err := newPrivateKey("")
		if err != nil {
			t.Fatal(err)
		}
		csr, _ := key.csr(web)
		chain, err := authority.Sign(csr, web, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		roots, err := newBundle(authority.Roots(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ours := time.Now().Add(-time.Hour) // the clock that we had
		s, err := newSVID(web, key, Issued{Chain: chain}, roots, 0, ours)
		if err != nil {
			t.Fatalf("not valid yet by a slow clock: %v", err)
		}
		if at := New(Config{}).renewal(&entry{current: s}, ours).Sub(ours); at > 37*time.Minute {
			t.Errorf("renewed after %v", at)
		}
		if _, err := newSVID(web, key, Issued{Chain: chain}, roots, 0, time.Now().Add(time.Hour)); err == nil || !strings.Contains(err.Error(), "clock") {
			t.Errorf("expired by a fast clock: %v", err)
		}
	})
}

func TestClockJumpRenewsAll(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web, db)
		synctest.Wait()
		r.issuer.requests()
		r.renewAll(time.Now(), "test")
		r.poke()
		pass(maxWait)
		if n := len(r.issuer.requests()); n != 2 {
			t.Errorf("%d renewals", n)
		}
	})
}

func TestRunRefusesAConfigThatLacksSomething(t *testing.T) {
	err := New(Config{TTL: -1}).Run(always)
	if err == nil {
		t.Fatal("it runs")
	}
	for _, want := range []string{"TrustDomain", "Issuer", "TTL"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %s", err, want)
		}
	}
}

func TestDumpShowsWhatIstioctlReads(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, web)
		synctest.Wait()
		r.issuer.set(func() { r.issuer.gate = make(chan struct{}) })
		hold(t, r, db)
		synctest.Wait()
		dump := r.Dump().([]dumpedSVID)
		if len(dump) != 2 || dump[0].Identity != db.String() || dump[0].State != "Initializing" {
			t.Fatalf("%+v", dump)
		}
		got, leaf := dump[1], r.leaf(web)
		from, to := time.Now().Add(time.Duration(identity.RenewFrom*float64(time.Hour))), time.Now().Add(time.Duration(identity.RenewTo*float64(time.Hour)))
		if at := got.Renewal.At; at.Before(from) || at.After(to) || got.Renewal.Overdue || got.Renewal.Error != "" {
			t.Errorf("the next certificate: %+v", got.Renewal)
		}
		if got.State != "Available" || len(got.CertChain) != 2 || len(got.RootCerts) != 1 {
			t.Fatalf("%+v", got)
		}
		if got.CertChain[0].SerialNumber != leaf.SerialNumber.String() || got.CertChain[0].ExpirationTime != "2000-01-01T01:00:00Z" {
			t.Errorf("%+v", got.CertChain[0])
		}
	})
}

// A001-17: readers never see half of a pair; run it with -race.
func TestManyPodsComeAndGoAtOnce(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	var wg sync.WaitGroup
	for n := range 16 {
		id := []spiffeid.ID{web, db}[n%2]
		wg.Go(func() {
			for range 10 {
				release := r.Hold(id)
				if err := third(r.Client(always, id, web)); err != nil {
					t.Error(err)
				}
				r.Stats()
				r.Dump()
				release()
			}
		})
	}
	wg.Wait()
	if stats := r.Stats(); stats.held() != 0 {
		t.Errorf("%+v", stats)
	}
}
