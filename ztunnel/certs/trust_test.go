// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

func rootsOf(n int) []*x509.Certificate {
	var roots []*x509.Certificate
	for i := range n {
		roots = append(roots, certstest.Mint(certstest.Authority(fmt.Sprint("root ", i)), certstest.NewKey(elliptic.P256()), nil).Cert)
	}
	return roots
}

func bundleWith(generation uint64, roots ...*x509.Certificate) Bundle {
	return Bundle{Generation: generation, Hash: identity.BundleHash(roots), Roots: roots}
}

// trusts fails unless the roots are trusted, and no others.
func (t *trust) trusts(tb testing.TB, when string, roots ...*x509.Certificate) {
	tb.Helper()
	if t.hash() != identity.BundleHash(roots) {
		var names []string
		for _, root := range t.roots() {
			names = append(names, root.Subject.CommonName)
		}
		tb.Errorf("%s: trusted are %q", when, names)
	}
}

func TestOnlyALaterBundleDropsARoot(t *testing.T) {
	now, ttl := time.Now(), time.Hour
	r := rootsOf(3)
	a, b, c := r[0], r[1], r[2]
	var k trust
	hear := func(wrong string, roots ...*x509.Certificate) {
		t.Helper()
		err := k.hear(roots, now, ttl)
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("an answer: %v, want %q", err, wrong)
		}
	}
	say := func(wrong string, generation uint64, roots ...*x509.Certificate) {
		t.Helper()
		err := k.say(bundleWith(generation, roots...), now, ttl)
		if (err == nil) != (wrong == "") || err != nil && !strings.Contains(err.Error(), wrong) {
			t.Errorf("generation %d: %v, want %q", generation, err, wrong)
		}
	}

	hear("", a)
	hear("", b)
	k.trusts(t, "an answer adds", a, b)
	say("", 7, a)
	k.trusts(t, "the first bundle says what holds", a)
	hear("", b)
	k.trusts(t, "what was only heard may be heard again", a, b)
	say("", 7, a)
	k.trusts(t, "the same generation is no news", a, b)
	say("different bundles of generation 7", 7, c)
	k.trusts(t, "another set of one generation adds", a, b, c)
	say("older", 6, c)
	k.trusts(t, "an older bundle says nothing", a, b, c)
	say("", 8, b)
	k.trusts(t, "a younger one takes the place of all", b)
	hear("dropped", a)
	k.trusts(t, "no answer brings a root back that a bundle dropped", b)
	say("", 9, a, b)
	k.trusts(t, "but a bundle does", a, b)
	hear("", a, c)
	k.trusts(t, "and then it is like any", a, b, c)
	for _, wrong := range []Bundle{{Generation: 10}, bundleWith(0, a), bundleWith(10, rootsOf(65)...)} {
		if err := k.say(wrong, now, ttl); err == nil {
			t.Errorf("taken: a bundle of generation %d with %d roots", wrong.Generation, len(wrong.Roots))
		}
	}
	k.trusts(t, "what is no bundle changes nothing", a, b, c)
}

// What the root file names is over when the CA has said what holds; what an answer named,
// too, is not.
func TestARootOfAnAnswerIsNotThatOfTheFileAlone(t *testing.T) {
	now, ttl := time.Now(), time.Hour
	r := rootsOf(3)
	said, both, file := r[0], r[1], r[2]
	for _, first := range []string{"the answer", "the file"} {
		var k trust
		answer := func() error { return k.hear([]*x509.Certificate{both}, now, ttl) }
		read := func() error { return k.hearFile([]*x509.Certificate{both, file}, now, ttl) }
		sequence := []func() error{answer, read}
		if first == "the file" {
			slices.Reverse(sequence)
		}
		err := k.say(bundleWith(7, said), now, ttl)
		for _, step := range sequence {
			err = errors.Join(err, step())
		}
		k.trusts(t, first+" is first", said, both, file)
		if err := errors.Join(err, k.say(bundleWith(7, said), now, ttl)); err != nil {
			t.Error(err)
		}
		k.trusts(t, first+" was first, and the CA said it again", said, both)
	}
}

func TestARootThatNoAnswerNamesAnyMoreGoesAfterThreeLifetimes(t *testing.T) {
	// This is how a root of istiod goes, which has no stream.
	var k trust
	r, now := rootsOf(2), time.Now()
	hear := func(after time.Duration, roots ...*x509.Certificate) {
		if err := k.hear(roots, now.Add(after), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	hear(0, r...)
	hear(3*time.Hour, r[1])
	k.trusts(t, "after three lifetimes", r...)
	hear(3*time.Hour+time.Second, r[1])
	k.trusts(t, "later", r[1])
	if err := k.hear(r[:1], now.Add(1000*time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	k.trusts(t, "while nobody knows how long a leaf lives", r[1], r[0])
}

// A CA without a stream names another root. The one before goes with the leaves that may
// hang on it, whose life is the CA's to say.
func TestTheLifeThatCountsForRootsIsTheGrantedOne(t *testing.T) {
	for name, life := range map[string]time.Duration{"an hour": time.Hour, "a day": 24 * time.Hour} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := &issuer{ca: newCA(t, td), ttl: life}
				r := run(t, Config{}, i, i)
				hold(t, r, web)
				synctest.Wait()
				first := i.ca.Roots()
				i.set(func() { i.ca = newCA(t, td) })
				last := time.Now() // that named it
				for len(r.roots().roots) < 2 {
					pass(time.Minute)
				}
				for range 5 * 60 {
					pass(life / 60)
					if len(r.roots().roots) == 1 {
						break
					}
				}
				if went := time.Since(last); went < 3*life || went > 4*life || r.roots().roots[0].Equal(first[0]) {
					t.Errorf("the root that is not named any more went after %v", went)
				}
			})
		})
	}
}

func TestAHostileCACannotGrowTheBundleWithoutEnd(t *testing.T) {
	var k trust
	all := rootsOf(maxHeard + 5)
	for _, root := range all {
		_ = k.hear([]*x509.Certificate{root}, time.Now(), time.Hour)
	}
	k.trusts(t, "after more answers than that", all[:maxHeard]...)
	for generation := range uint64(100) {
		if err := k.say(bundleWith(generation+1, rootsOf(1)...), time.Now(), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(k.dropped); n > maxDropped {
		t.Errorf("%d dropped roots are remembered", n)
	}
}

// Issue: each answer replaced the whole bundle, and two CAs with different roots behind
// one name caused 3,397 issuances in 30 s for 10 identities, and refused peers.
func TestTwoCAsOfDifferentRootsMakeNoStorm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newRig(t, newCA(t, td), time.Hour), newRig(t, newCA(t, td), time.Hour)
		one, other := a.issuer.ca, b.issuer.ca
		for _, i := range []*issuer{a.issuer, b.issuer} { // whoever asks is answered by the other CA each time
			i.set(func() {
				turn := 0
				i.change = func(*Issued) {
					turn++
					i.ca = one
					if turn%2 == 0 {
						i.ca = other
					}
				}
			})
		}
		var ids []spiffeid.ID
		for n := range 10 {
			ids = append(ids, spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/s%d", n)))
		}
		hold(t, a, ids...)
		hold(t, b, ids...)
		refused := 0
		for range 30 {
			pass(time.Second)
			for n, id := range ids {
				peer := ids[(n+1)%len(ids)]
				sc, _ := server(t, b, peer)
				cc, _ := client(t, a, id, peer)
				if e := shake(t, sc, cc); e.serverErr != nil || e.clientErr != nil {
					refused++
				}
			}
		}
		for _, r := range []*rig{a, b} {
			if n := len(r.issuer.requests()); n >= 40 {
				t.Errorf("%d issuances in 30 s for 10 identities", n)
			}
			if n := len(r.roots().roots); n != 2 {
				t.Errorf("%d roots are trusted", n)
			}
		}
		if refused > 0 {
			t.Errorf("%d peers were refused", refused)
		}
	})
}

func TestRenewalsThatADroppedRootAsksForAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newCA(t, td), time.Hour)
		for n := range 200 {
			hold(t, r, spiffeid.RequireFromString(fmt.Sprintf("spiffe://cluster.local/ns/shop/sa/s%d", n)))
		}
		pass(10 * time.Minute) // so that each has rested
		r.issuer.requests()
		next := newCA(t, td)
		r.issuer.set(func() { r.issuer.ca = next })
		r.say(t, 1, next.Roots())
		pass(maxChangeWait + time.Second)
		asked := r.issuer.requests()
		if len(asked) != 200 {
			t.Errorf("%d renewals", len(asked))
		}
		byWindow := map[int]int{}
		start := asked[0].at
		for _, q := range asked {
			byWindow[int(q.at.Sub(start)/(5*time.Second))]++
		}
		for window, n := range byWindow {
			if n > 2*200/6 {
				t.Errorf("%d of 200 renewals in the seconds from %d", n, 5*window)
			}
		}
		// Again at once: none of them may have another so soon.
		r.say(t, 2, rootsOf(1))
		pass(3 * time.Minute)
		if n := len(r.issuer.requests()); n > 0 {
			t.Errorf("%d renewals of SVIDs that have just been renewed", n)
		}
	})
}

// A connection does not wait for its turn among the spread renewals.
func TestAnSVIDThatNoRootVouchesForIsNotUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, newCA(t, td), time.Hour)
		hold(t, r, web)
		pass(10 * time.Minute)
		old := r.leaf(web)
		next := newCA(t, td)
		r.issuer.set(func() { r.issuer.ca = next })
		r.say(t, 1, next.Roots())
		start := time.Now()
		if err := third(r.Server(always, web)); err != nil {
			t.Fatal(err)
		}
		if waited := time.Since(start); waited > time.Second {
			t.Errorf("waited %v", waited)
		}
		if r.leaf(web).Equal(old) {
			t.Error("it is used")
		}

		r.issuer.set(func() { r.issuer.err = errDown })
		r.say(t, 2, rootsOf(1))
		if err := third(r.Server(always, web)); !errors.Is(err, ErrExpired) || !strings.Contains(err.Error(), "no root of the trust bundle") {
			t.Errorf("without another: %v", err)
		}
	})
}

func TestWhatABundleDropsIsNotTrustedByWhatCameBefore(t *testing.T) {
	twoNodes(t, func(t *testing.T, a, b *rig) {
		sc, serverUntil := server(t, b, db)
		cc, clientUntil := client(t, a, web, db)
		e := shake(t, sc, cc)
		if e.serverErr != nil || e.clientErr != nil {
			t.Fatal(e)
		}
		next := newCA(t, td)
		both := slices.Concat(a.issuer.ca.Roots(), next.Roots())
		for _, r := range []*rig{a, b} {
			r.say(t, 1, both)
		}
		for side, until := range map[string]time.Time{"server": serverUntil(e.server), "client": clientUntil(e.client)} {
			if !until.After(time.Now()) {
				t.Errorf("%s: a root more, and it holds until %v", side, until)
			}
		}
		for _, r := range []*rig{a, b} {
			r.say(t, 2, next.Roots())
		}
		for side, until := range map[string]time.Time{"server": serverUntil(e.server), "client": clientUntil(e.client)} {
			if until.After(time.Now()) {
				t.Errorf("%s: its root was dropped, and it holds until %v", side, until)
			}
		}
	})
}
