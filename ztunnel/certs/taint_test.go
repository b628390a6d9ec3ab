// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

func TestWhatATaintedAuthoritySignedIsRenewedAtOnce(t *testing.T) {
	for name, of := range map[string]func(i *issuer) sum{
		"its issuer": func(i *issuer) sum { return identity.KeyHash(i.ca.Issuer()) },
		"its root":   func(i *issuer) sum { return identity.KeyHash(i.ca.Roots()[0]) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				former, next := newCA(t, td), newCA(t, td)
				i := &issuer{ca: former}
				r := run(t, Config{TTL: time.Hour}, i, i)
				hold(t, r, web)
				synctest.Wait()
				key, both := of(i), slices.Concat(former.Roots(), next.Roots())
				r.say(t, 1, both)
				i.set(func() { i.ca = next })
				pass(10 * time.Minute)
				first := r.leaf(web)
				tainted := Bundle{Generation: 1, Hash: identity.BundleHash(both), Roots: both, Tainted: []sum{key}}
				if err := r.take(tainted); err != nil {
					t.Fatal(err)
				}
				pass(maxChangeWait + time.Second)
				second := r.leaf(web)
				if second.Equal(first) {
					t.Fatal("it was not renewed")
				}
				if err := r.take(tainted); err != nil { // it is said again on each stream
					t.Fatal(err)
				}
				pass(maxChangeWait + time.Second)
				if !r.leaf(web).Equal(second) {
					t.Error("what another signed is renewed, too")
				}
			})
		})
	}
}

// A replica may sign by the tainted authority for a while yet: what it gives is renewed again,
// in half a minute, and then more and more seldom; the next of another authority is kept.
// However young an SVID is, the first word of the CA has it renewed in half a minute.
func TestWhatATaintedAuthoritySignsAgainIsRenewedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former, next := newCA(t, td), newCA(t, td)
		i := &issuer{ca: former}
		var moved []time.Time
		r := run(t, Config{TTL: time.Hour, OnTainted: func(spiffeid.ID) { moved = append(moved, time.Now()) }}, i, i)
		hold(t, r, web)
		synctest.Wait()
		key, both := identity.KeyHash(former.Roots()[0]), slices.Concat(former.Roots(), next.Roots())
		r.say(t, 1, both)
		first := r.leaf(web)
		if err := r.take(Bundle{Generation: 1, Hash: identity.BundleHash(both), Roots: both, Tainted: []sum{key}}); err != nil {
			t.Fatal(err)
		}
		pass(maxChangeWait + time.Second)
		second := r.leaf(web)
		if second.Equal(first) || len(moved) == 0 {
			t.Fatal("it was not renewed, or no tunnel moved")
		}
		i.requests()
		pass(2 * maxChangeWait)
		if n := len(i.requests()); n == 0 {
			t.Error("a replica that is behind by a moment is not asked again")
		}
		pass(10 * time.Minute)
		if n := len(i.requests()); n == 0 || n > 5 {
			t.Errorf("one that is behind for long is asked %d times in ten minutes", n)
		}
		i.set(func() { i.ca = next })
		pass(6 * time.Minute)
		still := len(moved)
		if third := r.leaf(web); third.Equal(second) || still < 3 {
			t.Fatalf("what the tainted authority signed again was not renewed: %d tunnels moved", still)
		}
		i.requests()
		pass(10 * time.Minute)
		if n := len(i.requests()); n > 0 {
			t.Errorf("what another signed was renewed %d times", n)
		}
		r.rotations()
		pass(45 * time.Minute)
		if n := len(r.rotations()); n == 0 || len(moved) != still {
			t.Errorf("%d rotations as usual, %d tunnels moved", n, len(moved))
		}
	})
}

// The replica that this node follows may be late to name what is tainted, so that the SVID was
// renewed as usual before: what is open rests on the former authority all the same.
func TestTunnelsLeaveAnAuthorityThatIsTaintedAfterTheRenewal(t *testing.T) {
	for name, renewals := range map[string]int{"once": 1, "twice": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				former, next := newCA(t, td), newCA(t, td)
				i := &issuer{ca: former}
				var moved []spiffeid.ID
				r := run(t, Config{TTL: time.Hour, OnTainted: func(id spiffeid.ID) { moved = append(moved, id) }}, i, i)
				hold(t, r, web)
				synctest.Wait()
				key, both := identity.KeyHash(former.Roots()[0]), slices.Concat(former.Roots(), next.Roots())
				r.say(t, 1, both)
				i.set(func() { i.ca = next })
				for range renewals {
					pass(renewPause)
					r.Renew(t.Context(), web)
				}
				hold(t, r, db) // never had a certificate of the former
				synctest.Wait()
				if n := len(r.rotations()); n != renewals || len(moved) != 0 {
					t.Fatalf("%d rotations, and tunnels of %v moved", n, moved)
				}
				renewed := r.leaf(web)
				tainted := Bundle{Generation: 1, Hash: identity.BundleHash(both), Roots: both, Tainted: []sum{key}}
				for range 2 { // it is said again on each stream
					if err := r.take(tainted); err != nil {
						t.Fatal(err)
					}
					synctest.Wait()
					if !slices.Equal(moved, []spiffeid.ID{web}) {
						t.Fatalf("tunnels of %v moved", moved)
					}
				}
				pass(maxChangeWait + time.Second)
				if !r.leaf(web).Equal(renewed) {
					t.Error("what another signed is renewed, too")
				}
			})
		})
	}
}

// What is open when its certificates have ended does not rest on them any more.
func TestATaintIsNoMatterOnceTheCertificatesHaveEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		former, next := newCA(t, td), newCA(t, td)
		i := &issuer{ca: former}
		moved := 0
		r := run(t, Config{TTL: time.Hour, OnTainted: func(spiffeid.ID) { moved++ }}, i, i)
		hold(t, r, web)
		synctest.Wait()
		key, both := identity.KeyHash(former.Roots()[0]), slices.Concat(former.Roots(), next.Roots())
		r.say(t, 1, both)
		i.set(func() { i.ca = next })
		pass(2 * time.Hour)
		if err := r.take(Bundle{Generation: 1, Hash: identity.BundleHash(both), Roots: both, Tainted: []sum{key}}); err != nil {
			t.Fatal(err)
		}
		pass(maxChangeWait + time.Second)
		if moved != 0 {
			t.Errorf("tunnels moved %d times", moved)
		}
	})
}

// A root may follow another of the same name: only what names the tainted key hangs on it, or
// what names none.
func TestARootOfTheSameNameAsATaintedOneIsNotTainted(t *testing.T) {
	former, next := namesake(t, nil, "former"), namesake(t, nil, "next")
	silent := namesake(t, nil, "")
	b := &bundle{roots: []*x509.Certificate{former.cert, next.cert, silent.cert}}
	for _, tc := range []struct {
		name            string
		signer, tainted namesakeCA
		hangs           bool
	}{
		{"its own root", former, former, true},
		{"the root after it", next, former, false},
		{"a root that names no key", next, silent, true},
		{"a root, by what names no key", silent, former, true},
	} {
		above := []*x509.Certificate{namesake(t, &tc.signer, "issuer").cert}
		if got := b.hangsOn(above, []sum{identity.KeyHash(tc.tainted.cert)}); got != tc.hangs {
			t.Errorf("%s is tainted: %v", tc.name, got)
		}
	}
}

type namesakeCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// namesake is a CA of a name that others have, too, with an ID for its key unless that is empty.
func namesake(t *testing.T, by *namesakeCA, keyID string) namesakeCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, SubjectKeyId: []byte(keyID),
		NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	parent, signer := template, key
	if by != nil {
		template.Subject.CommonName, parent, signer = "issuer", by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return namesakeCA{cert, key}
}
