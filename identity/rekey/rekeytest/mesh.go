// SPDX-License-Identifier: Apache-2.0

// Package rekeytest re-keys the root of a small mesh, step by step, for tests of the places
// in which a CA may be kept. Whatever is done to it, no node may have a certificate that
// another does not trust.
package rekeytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Place is one in which a CA is kept.
type Place interface {
	// Store opens it, for one goroutine.
	Store() ca.Store
	// Board is where its replicas tell each other, and Lead says which of them steps: each has
	// its own, by its name.
	Board(name string) rekey.Board
	Lead(name string) func(context.Context) error
}

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

// mesh is two replicas and three nodes.
type mesh struct {
	t        testing.TB
	place    Place
	replicas []*replica
	nodes    []*node
	rounds   int
	writes   int // of all replicas, by their steppers
	kill     int // before that write, counted from 1; 0: never
	after    bool
	events   []ca.Event
	key      *signing.Key // of the next issuer; nil: it has none of a signer
	gone     bool         // the signer of an issuer's key: it may keep a replica from what is stored, or from signing
}

type replica struct {
	name    string
	store   ca.Store
	ca      *ca.CA
	stepper *rekey.Stepper
	life    *life
	late    int // rounds between two looks at the store; 0: none
	trouble string
}

// life is that of a process: its store knows when it is over.
type life struct {
	ca.Store
	of   *mesh
	dead bool
}

var errKilled = errors.New("the process was killed")

// Replace is a step's.
func (l *life) Replace(ctx context.Context, was, next ca.Files) error {
	if l.dead {
		return errKilled
	}
	l.of.writes++
	if l.of.writes != l.of.kill {
		return l.Store.Replace(ctx, was, next)
	}
	l.dead = true
	if l.of.after {
		if err := l.Store.Replace(ctx, was, next); err != nil {
			l.of.t.Fatal(err)
		}
	}
	return errKilled
}

type node struct {
	name   string
	at     int // the replica that it follows
	cut    bool
	trusts []*x509.Certificate
	chain  []*x509.Certificate
	keep   bool // it does not renew
}

func newMesh(t testing.TB, place Place) *mesh {
	t.Helper()
	m := &mesh{t: t, place: place}
	for i := range 2 {
		m.replicas = append(m.replicas, &replica{name: fmt.Sprintf("replica-%d", i)})
		m.start(i)
	}
	for j := range 3 {
		m.nodes = append(m.nodes, &node{name: fmt.Sprintf("node-%d", j), at: j % 2})
	}
	m.round()
	return m
}

// start is a replica's process.
func (m *mesh) start(i int) {
	r := m.replicas[i]
	made, err := ca.New(ca.Options{TrustDomain: td})
	if err != nil {
		m.t.Fatal(err)
	}
	r.ca, r.store, r.life = made, m.place.Store(), &life{Store: m.place.Store(), of: m}
	if err := r.ca.Load(m.t.Context(), r.store); err != nil {
		m.t.Fatalf("%s starts: %v", r.name, err)
	}
	r.stepper = rekey.NewStepper(rekey.Options{
		CA: r.ca, Store: r.life, Board: m.place.Board(r.name), Lead: m.place.Lead(r.name), Name: r.name, Heard: func(time.Time) rekey.Report { return m.heard(i) }, Settle: time.Nanosecond, Answer: time.Nanosecond,
		Tell: func(e ca.Event) { m.events = append(m.events, e) },
	})
}

// heard is what a replica knows.
func (m *mesh) heard(i int) rekey.Report {
	_, roots := m.replicas[i].ca.Bundle()
	report := rekey.Report{
		Set: setOf(roots), Issuer: ca.Fingerprint(m.replicas[i].ca.Issuer()), Longest: rekey.Seconds(time.Hour), Placed: true, Nodes: map[string]rekey.Node{},
	}
	report.Trouble = m.replicas[i].trouble
	if key := m.replicas[i].ca.Signer(); key != nil && key.Trouble() != nil {
		report.Away = key.Trouble().Error()
	}
	for _, n := range m.nodes {
		is := rekey.Node{Pods: true}
		if n.at == i && !n.cut {
			is.Connected, is.Set, is.Rests = true, setOf(n.trusts), n.rests()
			is.Certificates = is.Rests
		}
		report.Nodes[n.name] = is
	}
	return report
}

func setOf(roots []*x509.Certificate) string {
	sum := identity.BundleHash(roots)
	return hex.EncodeToString(sum[:])
}

// rests is what a node says of its roots.
func (n *node) rests() map[string]int {
	if len(n.trusts) < 2 {
		return nil
	}
	all := map[string]int{}
	for _, root := range n.trusts {
		sum := identity.KeyHash(root)
		key := hex.EncodeToString(sum[:])
		all[key] = 0
		others := slices.DeleteFunc(slices.Clone(n.trusts), root.Equal)
		if verify(n.chain, others) != nil {
			all[key] = 1
		}
	}
	return all
}

func verify(chain, roots []*x509.Certificate) error {
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, root := range roots {
		opts.Roots.AddCert(root)
	}
	for _, cert := range chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := chain[0].Verify(opts)
	return err
}

var key = func() *ecdsa.PrivateKey {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return made
}()

// round has everybody do what they do in a second, and asks whether all is well.
func (m *mesh) round() {
	m.t.Helper()
	m.rounds++
	for i, r := range m.replicas {
		if r.life.dead {
			m.start(i)
		}
		if r.late == 0 || m.rounds%r.late == 0 {
			m.take(r)
		}
	}
	for _, n := range m.nodes {
		if n.cut {
			continue
		}
		from := m.replicas[n.at].ca
		n.trusts = from.Roots()
		if n.keep && n.chain != nil {
			continue
		}
		chain, err := from.Certify(key.Public(), spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"), time.Hour)
		if err != nil && m.gone {
			continue // it has a former one
		}
		if err != nil {
			m.t.Fatal(err)
		}
		n.chain = chain
	}
	m.check()
	for _, r := range m.replicas {
		if _, err := r.stepper.Look(m.t.Context()); err != nil && !r.life.dead {
			m.t.Fatalf("round %d: %s: %v", m.rounds, r.name, err)
		}
	}
}

// take has a replica look at the store.
func (m *mesh) take(r *replica) {
	m.t.Helper()
	r.trouble = ""
	err := r.ca.Load(m.t.Context(), r.store)
	switch {
	case err == nil, errors.Is(err, ca.ErrChanged):
	case m.gone:
		r.trouble = err.Error()
	default:
		m.t.Fatalf("round %d: %s takes what is stored: %v", m.rounds, r.name, err)
	}
}

// check asks whether every node trusts every other.
func (m *mesh) check() {
	m.t.Helper()
	for _, holder := range m.nodes {
		for _, verifier := range m.nodes {
			if err := verify(holder.chain, verifier.trusts); err != nil {
				m.t.Fatalf("round %d, %s: %s does not trust %s: %v", m.rounds, m.plan().State, verifier.name, holder.name, err)
			}
		}
	}
}

func (m *mesh) files() ca.Files {
	m.t.Helper()
	files, err := m.place.Store().Read(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return files
}

func (m *mesh) plan() rekey.Plan {
	m.t.Helper()
	plan, err := rekey.Of(m.files())
	if err != nil {
		m.t.Fatal(err)
	}
	return plan
}

// change stores what an operator asks for.
func (m *mesh) change(ask func(rekey.Plan, ca.Files) (rekey.Plan, error)) {
	m.t.Helper()
	files := m.files()
	plan, err := rekey.Of(files)
	if err == nil {
		plan, err = ask(plan, files)
	}
	if err == nil {
		err = m.place.Store().Replace(m.t.Context(), files, plan.Files())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// begin is culvert ca rotate-root. It returns the next CA.
func (m *mesh) begin(broken *rekey.BreakGlass) rekey.Kit { return m.beginWith(ca.Options{}, broken) }

// beginWith is begin, whose next CA may have keys of signers.
func (m *mesh) beginWith(opts ca.Options, broken *rekey.BreakGlass) rekey.Kit {
	m.t.Helper()
	var kit rekey.Kit
	m.change(func(p rekey.Plan, files ca.Files) (rekey.Plan, error) {
		made, err := ca.Successor(files, opts)
		if err != nil {
			return p, err
		}
		if kit, err = rekey.KitOf(made); err != nil {
			return p, err
		}
		return rekey.Begin(p, files, kit, broken, time.Now())
	})
	return kit
}

// enough rounds are more than any re-key needs.
const enough = 200

// until goes on until the plan is in a state.
func (m *mesh) until(state rekey.State) {
	m.t.Helper()
	for end := m.rounds + enough; m.plan().State != state; m.round() {
		if m.rounds > end {
			m.t.Fatalf("never in %s; it is in %s, and waits for %v", state, m.plan().State, m.replicas[0].stepper.Status().Waits)
		}
	}
}

// ended asks whether all that is left is a CA of one root.
func (m *mesh) ended(want rekey.Kit, result rekey.Result) {
	m.t.Helper()
	m.until(rekey.Stable)
	files := m.files()
	roots := files.Roots()
	if len(roots) != 1 || !roots[0].Equal(want.Roots()[0]) || string(files[ca.IssuerKeyFile]) != want.IssuerKey || string(files[ca.RootKeyFile]) != want.RootKey {
		m.t.Errorf("it ended with other files, and the roots %v", roots)
	}
	if got := m.plan(); got.Last.Result != result || got.Former != (rekey.Kit{}) || got.Next != (rekey.Kit{}) {
		m.t.Errorf("it ended as %q, and keys are kept: %v", got.Last.Result, got.Former != rekey.Kit{})
	}
	if _, err := ca.Anchors(files); err != nil {
		m.t.Error(err)
	}
}
