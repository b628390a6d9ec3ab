// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// A001-19: 2,000 identities; no second has more than twice the mean of renewals.
func TestRenewalsOfTwoThousandIdentitiesAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, m := newMany(t, time.Hour)
		_ = m
		start := time.Now()
		holdMany(t, r, 0, 2000)
		pass(time.Second)
		r.issuer.requests()
		from, to := fraction(time.Hour, identity.RenewFrom), fraction(time.Hour, identity.RenewTo)
		pass(to - time.Second)
		mean := 2000 / (to - from).Seconds()
		bySecond := map[int]int{}
		for _, q := range r.issuer.requests() {
			bySecond[int(q.at.Sub(start).Seconds())]++
		}
		total := 0
		for second, n := range bySecond {
			total += n
			if float64(n) > 2*mean {
				t.Errorf("%d renewals in second %d, the mean is %.1f", n, second, mean)
			}
		}
		if total < 1950 {
			t.Errorf("%d renewals", total)
		}
	})
}

func TestTheIssuersWishIsFollowedWithinBounds(t *testing.T) {
	for wish, want := range map[time.Duration]time.Duration{
		10 * time.Minute: 10 * time.Minute,
		time.Millisecond: minRenewal,
		50 * time.Minute: 42 * time.Minute, // 70 %
		1e6 * time.Hour:  42 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			r, m := newMany(t, time.Hour)
			m.set(func() { m.wish = wish })
			hold(t, r, web)
			synctest.Wait()
			if after := time.Until(r.due(web)); after != want {
				t.Errorf("a wish of %v: after %v, want %v", wish, after, want)
			}
		})
	}
}

// "The key was forgotten with the last pod" was said when two renewals met one
// handshake.
// A001-17: no handshake sees half of a pair.
func TestRenewalsDoNotMeetAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority := newCA(t, td)
		a, b := newRig(t, authority, time.Hour), newRig(t, authority, time.Hour)
		hold(t, a, web)
		hold(t, b, db)
		synctest.Wait()
		for round := range 20 {
			sc, _ := server(t, b, db)
			cc, _ := client(t, a, web, db)
			for range 5 { // within the time that a dial may take
				for _, r := range []*rig{a, b} {
					r.renewAll(time.Now(), "test")
					r.poke()
				}
				pass(maxWait)
			}
			if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
				t.Fatalf("round %d: server %v, client %v", round, e.serverErr, e.clientErr)
			}
		}
		for _, r := range []*rig{a, b} {
			if n := len(r.issuer.requests()); n < 90 {
				t.Errorf("%d renewals only", n)
			}
		}
	})
}

func TestKeysThatWereReplacedAreOverwritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newCA(t, td), time.Hour)
		release := r.Hold(web)
		var keys []*privateKey
		for range 3 {
			pass(maxWait)
			r.Store.mu.Lock()
			keys = append(keys, r.entries[web].current.key)
			r.Store.mu.Unlock()
			r.renewAll(time.Now(), "test")
			r.poke()
		}
		signs := func(k *privateKey) bool {
			_, err := k.Sign(nil, make([]byte, 32), nil)
			return !errors.Is(err, errForgotten)
		}
		pass(maxWait)
		if !signs(keys[0]) || !signs(keys[2]) {
			t.Error("a key is forgotten while a handshake may need it")
		}
		pass(keyLinger + clockCheck)
		for n, k := range keys {
			if signs(k) {
				t.Errorf("key %d still signs", n)
			}
		}
		r.renewAll(time.Now(), "test")
		r.poke()
		pass(maxWait)
		r.Store.mu.Lock()
		e := r.entries[web]
		keys = []*privateKey{e.current.key}
		for _, old := range e.retired {
			keys = append(keys, old.key)
		}
		r.Store.mu.Unlock()
		release()
		if len(keys) < 2 {
			t.Fatal("no key was replaced")
		}
		for n, k := range keys {
			if signs(k) {
				t.Errorf("with the last pod gone, key %d still signs", n)
			}
		}
	})
}

// Each key that was made for an attempt that failed is overwritten, however it failed.
func TestKeysOfFailedAttemptsAreOverwritten(t *testing.T) {
	authority := newCA(t, td)
	other := newCA(t, td)
	for name, result := range map[string]func(*outcome) Result{
		"refused": func(*outcome) Result { return Result{Err: errDown} },
		"nothing": func(*outcome) Result { return Result{} },
		"of another root": func(o *outcome) Result {
			chain, roots := signedBy(t, other, o), authority.Roots()
			return Result{Issued: Issued{Chain: chain, Roots: roots}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(Config{TrustDomain: td, Log: quiet})
			o := &outcome{e: &entry{id: web}}
			if _, err := o.prepare(s.cfg); err != nil {
				t.Fatal(err)
			}
			o.judge(s, result(o))
			if _, err := o.key.Sign(nil, make([]byte, 32), nil); o.err == nil || !errors.Is(err, errForgotten) {
				t.Errorf("%v; the key still signs: %v", o.err, err)
			}
		})
	}
}

func signedBy(t *testing.T, authority *ca.CA, o *outcome) []*x509.Certificate {
	t.Helper()
	csr, err := o.key.csr(o.e.id)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authority.Sign(csr, o.e.id, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}
