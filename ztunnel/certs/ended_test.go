// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// ages has all that ended have done so behindFor ago.
func (r *rig) ages() {
	r.Store.mu.Lock()
	for i := range r.ended {
		r.ended[i].at = r.ended[i].at.Add(-behindFor)
	}
	r.Store.mu.Unlock()
	r.federateAgain(time.Now())
}

// A list of trust domains without a number cannot be told from a later one. A replica of the CA that is behind brings back no
// domain, and none of its roots, unless the domain itself has given a greater number.
func TestAReplicaThatIsBehindBringsBackNoTrustDomain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	i := &issuer{ca: newCA(t, td)}
	r := run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	hold(t, r, db)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.federates(t, of(others, 1, first))
	r.federates(t, of(others, 2, second))
	r.federates(t)
	const no = "nor of one that it is federated with"
	r.federates(t, of(others, 1, first))
	r.wantsPeer(t, "a dropped root of the removed domain", first.Leaf(guest), no)
	r.federates(t, of(others, 2, second))
	r.wantsPeer(t, "the removed domain as it was", second.Leaf(guest), no)

	r = run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	waitFor(t, "the bundle is restored", func() bool {
		r.Store.mu.Lock()
		defer r.Store.mu.Unlock()
		return len(r.ended) == 2
	})
	hold(t, r, db)
	r.federates(t, of(others, 2, second))
	r.wantsPeer(t, "the removed domain, after a restart", second.Leaf(guest), no)
	r.ages() // nothing more needs to be said
	r.wantsPeer(t, "the domain that is named for long", second.Leaf(guest), "")
	r.federates(t)
	r.federates(t, of(others, 3, first, second))
	r.wantsPeer(t, "a greater number, with a root that was dropped", first.Leaf(guest), "")
}

// Nor does it bring back a root of a domain that gives no numbers.
func TestAReplicaThatIsBehindBringsBackNoForeignRoot(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	r.tellsOfTheFirstBundle(t)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.federates(t, of(others, 0, first))
	r.federates(t, of(others, 0, first, second))
	r.federates(t, of(others, 0, second))
	told := r.bundles.Load()
	r.federates(t, of(others, 0, first, second))
	r.federates(t, of(others, 0, first))
	r.wantsPeer(t, "the dropped root", first.Leaf(guest), "unknown authority")
	r.wantsPeer(t, "the root in force", second.Leaf(guest), "")
	if r.bundles.Load() != told {
		t.Error("somebody was told of another bundle")
	}
	r.ages()
	r.wantsPeer(t, "a root that is named for long", first.Leaf(guest), "")
}

// Where nobody else says bundles, what is said last counts.
func TestTheOnlyOneThatSaysBundlesIsNeverBehind(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	first := certstest.NewCA()
	said := Bundle{Generation: 1, Roots: r.issuer.ca.Roots(), Sole: true}
	for _, foreign := range [][]Foreign{{of(others, 0, first)}, nil, {of(others, 0, first)}} {
		said.Foreign = foreign
		r.take(said)
	}
	r.wantsPeer(t, "a domain that came back", first.Leaf(guest), "")
}

// A number alone changes nothing that vouches for anybody: no tunnel is asked again, and no
// disk waited for.
func TestANumberAloneIsNoOtherBundle(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	r.tellsOfTheFirstBundle(t)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.federates(t, of(others, 1, first))
	told := r.bundles.Load()
	for n := range uint64(50) {
		r.federates(t, of(others, 2+n, first))
	}
	if got := r.bundles.Load(); got != told {
		t.Errorf("somebody was told %d times", got-told)
	}
	r.federates(t, of(others, 50, second))
	r.wantsPeer(t, "a number that is less than the last", second.Leaf(guest), "unknown authority")
}

// A CA without a stream of bundles never says which domains there are: none stay.
func TestForeignBundlesEndWithTheStreamThatSaysThem(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	r.tellsOfTheFirstBundle(t)
	first := certstest.NewCA()
	r.federates(t, of(others, 1, first))
	r.lose(context.DeadlineExceeded, false)
	r.wantsPeer(t, "the CA is away", first.Leaf(guest), "")
	told := r.bundles.Load()
	r.lose(errNoStream, false)
	r.wantsPeer(t, "the CA has no stream", first.Leaf(guest), "nor of one that it is federated with")
	if r.bundles.Load() != told+1 {
		t.Error("nobody was told")
	}
}

// numbered has the CA say which domains there are, by a list with a number.
func (r *rig) numbered(t *testing.T, number uint64, foreign ...Foreign) {
	t.Helper()
	roots := r.issuer.ca.Roots()
	if err := r.take(Bundle{Generation: 1, Hash: identity.BundleHash(roots), Roots: roots, Foreign: foreign, Listed: number}); err != nil {
		t.Fatal(err)
	}
}

// Where the list of domains has a number, a replica of the CA that is behind brings back nothing
// however long it is, and ends nothing; a list with a greater number counts at once.
func TestAListThatIsBehindNeverBringsBackATrustDomain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	i := &issuer{ca: newCA(t, td)}
	r := run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	hold(t, r, db)
	first, second := certstest.NewCA(), certstest.NewCA()
	const no = "nor of one that it is federated with"
	r.numbered(t, 7, of(others, 1, first))
	r.numbered(t, 8)
	r.wantsPeer(t, "the removed domain", first.Leaf(guest), no)
	r.numbered(t, 7, of(others, 1, first))
	r.ages()
	r.numbered(t, 7, of(others, 9, first))
	r.wantsPeer(t, "a list that is behind for long, and a greater number of the domain", first.Leaf(guest), no)
	if got := r.Following().FederatedNumber; got != 8 {
		t.Errorf("the node goes by list %d, want 8", got)
	}

	r = run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	waitFor(t, "the number is restored", func() bool { return r.Following().FederatedNumber == 8 })
	hold(t, r, db)
	r.numbered(t, 7, of(others, 9, first))
	r.wantsPeer(t, "a list that is behind, after a restart", first.Leaf(guest), no)

	r.numbered(t, 9, of(others, 1, first))
	r.wantsPeer(t, "a greater list that names it again", first.Leaf(guest), "")
	r.numbered(t, 8)
	r.wantsPeer(t, "a list that is behind, and lacks it", first.Leaf(guest), "")
	r.numbered(t, 8, of(others, 2, second))
	r.wantsPeer(t, "what the domain says of itself counts from any list", second.Leaf(guest), "")
	r.numbered(t, 9)
	r.wantsPeer(t, "a list that was changed, with its number", second.Leaf(guest), no)
	r.numbered(t, 9, of(others, 2, second))
	r.wantsPeer(t, "changed back", second.Leaf(guest), no)
}

// A greater number of the list says which domains there are, and nothing of a root that its
// domain has dropped; a list without a number, as of an older CA, is what it always was.
func TestANumberOfTheListIsNoneOfADomain(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.numbered(t, 7, of(others, 1, first))
	r.numbered(t, 7, of(others, 2, second))
	r.numbered(t, 8, of(others, 1, first))
	r.wantsPeer(t, "a root that the domain has dropped", first.Leaf(guest), "unknown authority")
	r.numbered(t, 9)
	r.numbered(t, 10, of(others, 1, first))
	r.wantsPeer(t, "a root that the domain has dropped, when the domain is back", first.Leaf(guest), "nor of one that it is federated with")
	r.numbered(t, 11, of(others, 2, second))
	r.wantsPeer(t, "the root that it had last", second.Leaf(guest), "")
	r.federates(t)
	r.wantsPeer(t, "a list without a number ends it", second.Leaf(guest), "nor of one that it is federated with")
	r.federates(t, of(others, 2, second))
	r.wantsPeer(t, "and brings it back", second.Leaf(guest), "nor of one that it is federated with")
	r.ages()
	r.wantsPeer(t, "for long", second.Leaf(guest), "")
}
