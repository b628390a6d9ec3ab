// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

var (
	others = spiffeid.RequireTrustDomainFromString("other.example")
	thirds = spiffeid.RequireTrustDomainFromString("third.example")
	guest  = spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
)

// federates has the stream say the bundle of generation 1 with those of others.
func (r *rig) federates(t *testing.T, foreign ...Foreign) {
	t.Helper()
	roots := r.issuer.ca.Roots()
	if err := r.take(Bundle{Generation: 1, Hash: identity.BundleHash(roots), Roots: roots, Foreign: foreign}); err != nil {
		t.Fatal(err)
	}
}

// of is the bundle of a domain with the roots of test CAs.
func of(td spiffeid.TrustDomain, sequence uint64, cas ...*certstest.Signer) Foreign {
	f := Foreign{TrustDomain: td, Sequence: sequence}
	for _, c := range cas {
		f.Roots = append(f.Roots, c.Cert)
	}
	return f
}

// comes is what becomes of a peer that shows a leaf to db, and of its tunnel later.
func (r *rig) comes(t *testing.T, leaf *certstest.Signer) (later func() bool, err error) {
	t.Helper()
	server, until := server(t, r, db)
	e := shake(t, server, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpn}, Certificates: []tls.Certificate{leaf.TLS()}})
	return func() bool { return until(e.server).After(time.Now()) }, e.serverErr
}

// wantsPeer checks whether a peer is let in by its certificate.
func (r *rig) wantsPeer(t *testing.T, when string, leaf *certstest.Signer, says string) (later func() bool) {
	t.Helper()
	later, err := r.comes(t, leaf)
	if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want %q", when, err, says)
	}
	return later
}

// The roots of a trust domain vouch for its own workloads: a foreign root for none of ours and
// none of a third, ours for none of another.
func TestARootVouchesForItsOwnTrustDomainOnly(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	foreign, more, stranger := certstest.NewCA(), certstest.NewCA(), certstest.NewCA()
	r.wantsPeer(t, "before there is a federation", foreign.Leaf(guest), "is not of the trust domain cluster.local, nor of one that it is federated with")

	r.federates(t, of(others, 1, foreign), of(thirds, 1, more), of(td, 9, stranger))
	r.wantsPeer(t, "a peer of the other domain", foreign.Leaf(guest), "")
	r.wantsPeer(t, "a peer of ours under a foreign root", foreign.Leaf(web), "unknown authority")
	r.wantsPeer(t, "a peer of ours under a root that came as foreign", stranger.Leaf(web), "unknown authority")
	r.wantsPeer(t, "a peer of a third under the other's root", foreign.Leaf(spiffeid.RequireFromPath(thirds, "/ns/a/sa/b")), "unknown authority")
	r.wantsPeer(t, "a peer of the other under the third's root", more.Leaf(guest), "unknown authority")
	r.wantsPeer(t, "a peer of the other under nobody's root", stranger.Leaf(guest), "unknown authority")
	r.wantsPeer(t, "a foreign ID that is no ServiceAccount's", foreign.Leaf(spiffeid.RequireFromPath(others, "/spire/server")), "is not of the form")
}

// leads is what becomes of a tunnel from db to a peer that is expected, where a leaf is shown.
func (r *rig) leads(t *testing.T, to spiffeid.ID, shown *certstest.Signer) (later func() bool, err error) {
	t.Helper()
	config, until := client(t, r, db, to)
	server := &tls.Config{Certificates: []tls.Certificate{shown.TLS()}, ClientAuth: tls.RequireAnyClientCert, NextProtos: []string{alpn}, MinVersion: tls.VersionTLS13}
	e := shake(t, server, config)
	return func() bool { return until(e.client).After(time.Now()) }, e.clientErr
}

// A pod dials a workload of another trust domain by its whole SPIFFE ID. Only that domain's roots
// prove it: ours, those of a third, and the same account of another domain do not.
func TestATunnelToAnotherTrustDomainLeadsToExactlyWhoIsExpected(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	foreign, third, ours := certstest.NewCA(), certstest.NewCA(), certstest.NewCA()
	if _, _, err := r.Client(t.Context(), db, guest); !errors.Is(err, ErrNoBundle) || !strings.Contains(err.Error(), guest.String()) {
		t.Errorf("without a bundle: %v", err)
	}
	roots := append(r.issuer.ca.Roots(), ours.Cert)
	if err := r.take(Bundle{Generation: 1, Hash: identity.BundleHash(roots), Roots: roots, Foreign: []Foreign{of(others, 1, foreign), of(thirds, 1, third)}}); err != nil {
		t.Fatal(err)
	}
	same := spiffeid.RequireFromPath(thirds, guest.Path())
	local := spiffeid.RequireFromPath(td, guest.Path())
	for _, tc := range []struct {
		name  string
		to    spiffeid.ID
		shown *certstest.Signer
		says  string
	}{
		{"who is expected", guest, foreign.Leaf(guest), ""},
		{"another of its domain", guest, foreign.Leaf(spiffeid.RequireFromPath(others, "/ns/shop/sa/api")), "want " + guest.String()},
		{"the same account of a third domain", guest, third.Leaf(same), "want " + guest.String()},
		{"the same account of ours", guest, ours.Leaf(local), "want " + guest.String()},
		{"its name under a root of ours", guest, ours.Leaf(guest), "unknown authority"},
		{"its name under a third domain's root", guest, third.Leaf(guest), "unknown authority"},
		{"its name under nobody's root", guest, certstest.NewCA().Leaf(guest), "unknown authority"},
		{"one of ours under its root", local, foreign.Leaf(local), "unknown authority"},
		{"one of ours", local, ours.Leaf(local), ""},
	} {
		if _, err := r.leads(t, tc.to, tc.shown); (err == nil) != (tc.says == "") || err != nil && !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.says)
		}
	}
	if _, _, err := r.Client(t.Context(), db, spiffeid.RequireFromPath(others, "/spire/server")); err == nil {
		t.Error("an ID that is no ServiceAccount's is expected")
	}
}

// A tunnel to another trust domain lives while that domain's bundle vouches for its peer: younger
// roots change nothing, and without the bundle it ends, and none is made.
func TestATunnelToAnotherTrustDomainEndsWithItsBundle(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.federates(t, of(others, 1, first))
	tunnel, err := r.leads(t, guest, first.Leaf(guest))
	if err != nil {
		t.Fatal(err)
	}
	r.federates(t, of(others, 2, first, second))
	younger, err := r.leads(t, guest, second.Leaf(guest))
	if err != nil || !tunnel() {
		t.Errorf("while a root is added: %v, and the tunnel lives: %v", err, tunnel())
	}
	r.federates(t, of(others, 3, second))
	if tunnel() || !younger() {
		t.Error("a tunnel of the dropped root lives, or one of the younger does not")
	}
	r.federates(t)
	if younger() {
		t.Error("a tunnel outlived the federation")
	}
	if _, _, err := r.Client(t.Context(), db, guest); !errors.Is(err, ErrNoBundle) {
		t.Errorf("after the federation: %v", err)
	}
}

// A foreign root is followed as it rotates; a tunnel lives while its domain's bundle vouches
// for it, and not a moment longer.
func TestATunnelOfAnotherTrustDomainEndsWithItsBundle(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	r.tellsOfTheFirstBundle(t)
	first, second := certstest.NewCA(), certstest.NewCA()
	r.federates(t, of(others, 1, first))
	tunnel := r.wantsPeer(t, "the first root", first.Leaf(guest), "")
	told := r.bundles.Load()
	r.federates(t, of(others, 2, first, second))
	if r.bundles.Load() != told+1 {
		t.Error("nobody was told of another bundle of another domain")
	}
	younger := r.wantsPeer(t, "both roots", second.Leaf(guest), "")
	if !tunnel() {
		t.Error("a tunnel ended when a root was added")
	}
	r.federates(t, of(others, 3, second))
	if tunnel() || !younger() {
		t.Error("a tunnel of the dropped root lives, or one of the younger does not")
	}
	r.federates(t, of(others, 2, first, second)) // a replica that lags
	r.wantsPeer(t, "an older bundle", first.Leaf(guest), "unknown authority")
	r.federates(t, of(others, 0)) // one that knows the domain's name only
	r.wantsPeer(t, "no roots said", second.Leaf(guest), "")
	if told = r.bundles.Load(); !younger() {
		t.Error("a tunnel ended though its bundle stayed")
	}
	r.federates(t)
	if younger() {
		t.Error("a tunnel outlived the federation")
	}
	if r.bundles.Load() != told+1 {
		t.Error("nobody was told that a federation ended")
	}
	r.wantsPeer(t, "after the federation", second.Leaf(guest), "nor of one that it is federated with")
}

// What rests on a root of ours is counted by our own certificate alone if the peer is foreign:
// else no re-key would end while one is connected.
func TestAForeignPeerRestsOnNoRootOfOurs(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	p, err := r.ServerPair(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	foreign, next := certstest.NewCA(), newCA(t, td)
	r.take(Bundle{Generation: 1, Hash: identity.BundleHash(slices.Concat(r.issuer.ca.Roots(), next.Roots())),
		Roots: slices.Concat(r.issuer.ca.Roots(), next.Roots()), Foreign: []Foreign{of(others, 1, foreign)}})
	state := tls.ConnectionState{PeerCertificates: []*x509.Certificate{foreign.Leaf(guest).Cert}}
	former := identity.KeyHash(r.issuer.ca.Roots()[0])
	if p.Without(state, identity.KeyHash(next.Roots()[0])).Before(time.Now()) {
		t.Error("the tunnel rests on a root that neither end needs")
	}
	if p.Without(state, former).After(time.Now()) {
		t.Error("the tunnel does not rest on the root of our own certificate")
	}
}

// A ztunnel that starts while the CA is away knows the foreign bundles of its predecessor. What
// the CA says first takes their place, whatever its number: the domain may have begun anew.
func TestForeignBundlesOutliveZtunnel(t *testing.T) {
	file := filepath.Join(t.TempDir(), "bundle")
	authority, first, second, third := newCA(t, td), certstest.NewCA(), certstest.NewCA(), certstest.NewCA()
	i := &issuer{ca: authority}
	r := run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	r.federates(t, of(others, 5, first))
	r = run(t, Config{TTL: time.Hour, BundleFile: file}, i, i)
	waitFor(t, "the bundle is restored", func() bool { return len(r.Following().Federated) == 1 })
	hold(t, r, db)
	r.wantsPeer(t, "after a restart", first.Leaf(guest), "")
	r.federates(t, of(others, 4, second))
	r.wantsPeer(t, "the first bundle", second.Leaf(guest), "")
	r.wantsPeer(t, "a root that it does not name", first.Leaf(guest), "unknown authority")
	r.federates(t, of(others, 3, third))
	r.wantsPeer(t, "an older bundle", third.Leaf(guest), "unknown authority")
	if f := r.Following().Federated[0]; f.TrustDomain != "other.example" || f.Sequence != 4 || f.Roots != 1 {
		t.Errorf("%+v", f)
	}
}

// A CA that is not ours, or was broken into, cannot fill a node.
func TestForeignBundlesAreBounded(t *testing.T) {
	root := certstest.NewCA().Cert.Raw
	var all []*identityv1.FederatedBundle
	all = append(all, &identityv1.FederatedBundle{TrustDomain: "many.example", Roots: slices.Repeat([][]byte{root}, identityv1.MaxFederatedRoots+1)})
	all = append(all, &identityv1.FederatedBundle{TrustDomain: "not a domain", Roots: [][]byte{root}})
	all = append(all, &identityv1.FederatedBundle{TrustDomain: "torn.example", Roots: [][]byte{[]byte("x"), root}})
	for i := range 2 * identityv1.MaxFederated {
		all = append(all, &identityv1.FederatedBundle{TrustDomain: string(rune('a'+i)) + ".example", Roots: [][]byte{root}})
	}
	got := foreignOf(all)
	if len(got) != identityv1.MaxFederated-2 || got[0].TrustDomain.Name() != "torn.example" || len(got[0].Roots) != 1 {
		t.Errorf("%d bundles, first %v", len(got), got[0])
	}
}

// What is left out is said, and a domain that is named without roots keeps those in force.
func TestWhatIsLeftOutOfForeignBundlesIsSaid(t *testing.T) {
	r := newRig(t, newCA(t, td), time.Hour)
	hold(t, r, db)
	first := certstest.NewCA()
	r.federates(t, of(others, 1, first))
	all := []Foreign{{TrustDomain: others, Problem: "it is torn"}}
	for i := range identityv1.MaxFederated + 1 {
		all = append(all, of(spiffeid.RequireTrustDomainFromString(string(rune('a'+i))+".example"), 1, first))
	}
	r.federates(t, all...)
	r.wantsPeer(t, "the bundle cannot be used", first.Leaf(guest), "")
	r.Store.mu.Lock()
	defer r.Store.mu.Unlock()
	if want := "other.example: it is torn; 2 more than 16 trust domains, from p.example on"; r.leftOut != want {
		t.Errorf("%q, want %q", r.leftOut, want)
	}
}
