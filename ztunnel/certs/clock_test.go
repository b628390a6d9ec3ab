// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// Clocks that are 14 minutes off, a lifetime of 25 seconds, and 15 minutes of leeway.
// A000-9 with A000-10.
func TestShortLivesHoldWhereClocksAreFarOff(t *testing.T) {
	const skew, ttl = 15 * time.Minute, 25 * time.Second
	for _, backdates := range []bool{true, false} { // as our CA does; as one that does not know
		for _, off := range []time.Duration{-14 * time.Minute, -time.Minute, 0, time.Minute, 14 * time.Minute} {
			t.Run(fmt.Sprint(off, backdates), func(t *testing.T) {
				opts := ca.Options{TrustDomain: td}
				if backdates {
					opts.ClockSkew = skew
				}
				authority, err := ca.Open(t.TempDir(), opts)
				if err != nil {
					t.Fatal(err)
				}
				trueTime := time.Now()
				ours := trueTime.Add(off)
				roots, err := newBundle(authority.Roots(), skew)
				if err != nil {
					t.Fatal(err)
				}
				o := &outcome{e: &entry{id: web}}
				if _, err := o.prepare(Config{TrustDomain: td}); err != nil {
					t.Fatal(err)
				}
				chain, err := authority.Sign(mustCSR(t, o.key), web, ttl)
				if err != nil {
					t.Fatal(err)
				}
				own, err := newSVID(web, o.key, Issued{Chain: chain}, roots, skew, ours)
				if err != nil {
					t.Fatalf("by our own clock: %v", err)
				}
				after := New(Config{}).renewal(&entry{current: own}, ours).Sub(ours)
				if after < minRenewal || after > ttl*2/3+skew/20 && backdates {
					t.Errorf("renewed after %v", after)
				}
				if !own.valid(ours.Add(after)) {
					t.Errorf("it is used until %v, and renewed only after %v", own.until.Sub(ours), after)
				}
				// From now until it is renewed, peers with other clocks take it.
				for _, theirs := range []time.Duration{-14 * time.Minute, 0, 14 * time.Minute} {
					for _, passed := range []time.Duration{0, min(after, ttl)} {
						if _, err := roots.prove(chain, x509.ExtKeyUsageClientAuth, trueTime.Add(theirs+passed)); err != nil {
							t.Errorf("a peer whose clock is off by %v, after %v: %v", theirs, passed, err)
						}
					}
				}
			})
		}
	}
}

// What a CA gave is read from what it wrote, as it may have backdated it, by all of the
// skew or by as much as its issuer is old.
func TestTheLifeThatWasGrantedIsNotTakenForLonger(t *testing.T) {
	const skew = 15 * time.Minute
	for _, row := range []struct{ backdated, life, skew, want time.Duration }{
		{time.Minute, time.Hour, 0, time.Hour + time.Minute}, // bounded by our clock: see lifetime
		{skew, time.Hour, skew, time.Hour},
		{skew, 25 * time.Second, skew, 25 * time.Second},
		{14 * time.Minute, 25 * time.Second, skew, 25 * time.Second}, // an issuer that is younger than the skew
		{0, 25 * time.Second, skew, 25 * time.Second},
		{0, time.Hour, skew, 45 * time.Minute},
		{0, 10 * time.Second, skew, 10 * time.Second}, // an issuer that ends
	} {
		leaf := &x509.Certificate{NotBefore: time.Now().Add(-row.backdated), NotAfter: time.Now().Add(row.life)}
		if got := granted(leaf, row.skew).Round(time.Second); got != row.want {
			t.Errorf("%+v: %v", row, got)
		}
	}
}

func mustCSR(t *testing.T, k *privateKey) []byte {
	t.Helper()
	csr, err := k.csr(web)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestLeewayIsNoMoreThanTheSkewAtBothEnds(t *testing.T) {
	authority := newCA(t, td)
	key, err := newPrivateKey("")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authority.Sign(mustCSR(t, key), web, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for _, skew := range []time.Duration{0, time.Second, 15 * time.Minute} {
		b, err := newBundle(authority.Roots(), skew)
		if err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			at time.Time
			ok bool
		}{
			{chain[0].NotBefore.Add(-skew), true}, {chain[0].NotBefore.Add(-skew - time.Second), false},
			{chain[0].NotAfter.Add(skew), true}, {chain[0].NotAfter.Add(skew + time.Second), false},
		} {
			if _, err := b.prove(chain, x509.ExtKeyUsageServerAuth, tc.at); (err == nil) != tc.ok {
				t.Errorf("skew %v, %v after NotBefore, %v after NotAfter: %v", skew, tc.at.Sub(chain[0].NotBefore), tc.at.Sub(chain[0].NotAfter), err)
			}
		}
	}
}

// A000-9, A000-10: the mesh as a whole, over many lifetimes: no handshake fails.
func TestAMeshOfShortLivesHasNoPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: td, ClockSkew: 15 * time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		var rigs []*rig
		for range 2 {
			i := &issuer{ca: authority}
			rigs = append(rigs, run(t, Config{TTL: 25 * time.Second, ClockSkew: 15 * time.Minute}, i, i))
		}
		a, b := rigs[0], rigs[1]
		hold(t, a, web)
		hold(t, b, db)
		synctest.Wait()
		for range 120 {
			pass(5 * time.Second)
			sc, _ := server(t, b, db)
			cc, _ := client(t, a, web, db)
			if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
				t.Fatal(e.serverErr, e.clientErr)
			}
		}
		// 10 minutes at 25 s: each is renewed after 9 to 12.3 s, not without pause.
		for _, r := range rigs {
			if n := len(r.issuer.requests()); n < 48 || n > 67 {
				t.Errorf("%d certificates in 10 minutes", n)
			}
		}
	})
}
