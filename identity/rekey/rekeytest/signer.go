// SPDX-License-Identifier: Apache-2.0

package rekeytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Signer is one of a key, as of signingtest: Key is the reference to it, Has changes it, or takes
// it away, and Hangs has it answer nobody.
type Signer interface {
	Key(testing.TB) *signing.Key
	Has(key crypto.Signer, err error) (former crypto.Signer)
	Hangs(bool)
}

func p256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signerGoes has the signer of the next issuer's key be away, hang, or have another key, in each
// state: the re-key stays there, says for whom it waits, and goes on when the signer is back.
// Meanwhile every node has a certificate that all trust.
func signerGoes(t *testing.T, open func(t *testing.T) Place, serve func(testing.TB, crypto.Signer) Signer) {
	const away, other = "the token is absent", "the signer has another key"
	for _, tc := range []struct {
		state       rekey.State
		away, other string // what is waited for
	}{
		{rekey.Prepare, "the signer of the next issuer's key is away: ", "the next CA is refused; abort: "},
		{rekey.Distribute, "the signer of the next issuer's key is away: ", "the next CA is refused; abort: "},
		{rekey.Activate, "it signs by another issuer: it does not take what is stored: ", "it signs by another issuer: it does not take what is stored: "},
		{rekey.Drain, "it cannot sign: ", "it cannot sign: "},
		{rekey.Drop, "it gives nodes another set of roots: it does not take what is stored: ", "it gives nodes another set of roots: it does not take what is stored: "},
	} {
		t.Run(string(tc.state)+", away", func(t *testing.T) {
			m, signer, goesOn := signedBy(t, open, serve, tc.state)
			had := signer.Has(nil, errors.New(away))
			m.waitsForSigner(tc.state, 5, tc.away, away)
			signer.Has(had, nil)
			goesOn()
		})
		t.Run(string(tc.state)+", another key", func(t *testing.T) {
			m, signer, goesOn := signedBy(t, open, serve, tc.state)
			had := signer.Has(p256(t), nil)
			m.waitsForSigner(tc.state, 5, tc.other, other)
			signer.Has(had, nil)
			goesOn()
		})
		if testing.Short() { // each question waits for five seconds
			continue
		}
		t.Run(string(tc.state)+", hangs", func(t *testing.T) {
			t.Parallel()
			m, signer, goesOn := signedBy(t, open, serve, tc.state)
			signer.Hangs(true)
			m.keep(1, 2)
			m.waitsForSigner(tc.state, 1, tc.away, "no answer within 5s")
			m.keep()
			signer.Hangs(false)
			goesOn()
		})
	}
}

// signedBy is a re-key in a state, whose next issuer has the key of a signer in trouble. goesOn
// ends it.
func signedBy(t *testing.T, open func(t *testing.T) Place, serve func(testing.TB, crypto.Signer) Signer, state rekey.State) (m *mesh, s Signer, goesOn func()) {
	t.Helper()
	m, s = newMesh(t, open(t)), serve(t, p256(t))
	m.key = s.Key(t)
	next := m.beginWith(ca.Options{IssuerKey: m.key}, nil)
	m.until(state)
	m.gone = true
	return m, s, func() {
		t.Helper()
		m.untilSigns()
		m.ended(next, rekey.Done)
	}
}

// waitsForSigner asks, some rounds later, whether the re-key is in the same state, and says why.
func (m *mesh) waitsForSigner(state rekey.State, rounds int, want ...string) {
	m.t.Helper()
	want = append(want, m.key.String())
	for n := 0; n < rounds || n < 5 && m.unsaid(want) != ""; n++ {
		m.round()
	}
	if is, part := m.plan().State, m.unsaid(want); is != state || part != "" {
		m.t.Errorf("in %s it waits for %q, want %s and %q", is, m.said(), state, part)
	}
}

// unsaid is what the first replica does not say that it waits for, of some.
func (m *mesh) unsaid(want []string) string {
	i := slices.IndexFunc(want, func(part string) bool { return !strings.Contains(m.said(), part) })
	if i < 0 {
		return ""
	}
	return want[i]
}

// said is for whom the first replica waits.
func (m *mesh) said() string {
	var all []string
	for _, w := range m.replicas[0].stepper.Status().Waits {
		all = append(all, w.String())
	}
	return strings.Join(all, "; ")
}

// keep has these nodes not renew, and all others.
func (m *mesh) keep(nodes ...int) {
	for i, n := range m.nodes {
		n.keep = slices.Contains(nodes, i)
	}
}

// untilSigns goes on until no replica has trouble with a signer: one that was away is asked
// again after a second.
func (m *mesh) untilSigns() {
	m.t.Helper()
	for _, r := range m.replicas {
		key := r.ca.Signer()
		for end := time.Now().Add(time.Minute); key != nil && key.Watch() != nil; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				m.t.Fatalf("%s: %v", r.name, key.Trouble())
			}
		}
	}
	m.gone = false
}
