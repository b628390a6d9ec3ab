// SPDX-License-Identifier: Apache-2.0

package rekeytest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/rekey"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Signer is one of a key, as of signingtest: Key is the reference to it, and Has changes it,
// or takes it away.
type Signer interface {
	Key(testing.TB) *signing.Key
	Has(key crypto.Signer, err error) (former crypto.Signer)
}

func p256(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// signerGoes has the signer of the next issuer's key be away, or have another key, in each
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
		for name, goes := range map[string]struct {
			key    crypto.Signer
			err    error
			want   string
			reason string
		}{
			"away":        {nil, errors.New(away), tc.away, away},
			"another key": {p256(t), nil, tc.other, other},
		} {
			t.Run(string(tc.state)+", "+name, func(t *testing.T) {
				m, signer := newMesh(t, open(t)), serve(t, p256(t))
				key := signer.Key(t)
				next := m.beginWith(ca.Options{IssuerKey: key}, nil)
				m.until(tc.state)
				m.gone = true
				had := signer.Has(goes.key, goes.err)
				for range 5 {
					m.round()
				}
				var said []string
				for _, w := range m.replicas[0].stepper.Status().Waits {
					said = append(said, w.String())
				}
				all := strings.Join(said, "; ")
				if is := m.plan().State; is != tc.state || !strings.Contains(all, goes.want) || !strings.Contains(all, key.String()) || !strings.Contains(all, goes.reason) {
					t.Errorf("in %s it waits for %q, want %s and %q, %q of %s", is, all, tc.state, goes.want, goes.reason, key)
				}
				signer.Has(had, nil)
				m.untilSigns()
				m.ended(next, rekey.Done)
			})
		}
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
