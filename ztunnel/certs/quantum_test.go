// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/mldsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
)

// C.5, N-17: under a root of ML-DSA-65 nodes with keys of either kind speak, whoever dials;
// and so they do while the mesh moves there, and trusts the roots of both kinds.
func TestNodesWithKeysOfEitherKindSpeakWhileAMeshMovesToMLDSA(t *testing.T) {
	former := newCA(t, td)
	next, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: td, Keys: identity.MLDSA65})
	if err != nil {
		t.Fatal(err)
	}
	for _, cert := range append(next.Roots(), next.Issuer()) {
		if key, ok := cert.PublicKey.(*mldsa.PublicKey); !ok || key.Parameters() != mldsa.MLDSA65() || cert.SignatureAlgorithm != x509.MLDSA65 {
			t.Errorf("%s: the key is %T, and %v signed it", cert.Subject, cert.PublicKey, cert.SignatureAlgorithm)
		}
	}
	both := append(former.Roots(), next.Roots()...)
	nodes := map[string]*rig{}
	for name, n := range map[string]struct {
		by   *ca.CA
		keys identity.KeyKind
	}{
		"as before": {former, identity.P256}, "issuer of ML-DSA": {next, identity.P256}, "all of ML-DSA": {next, identity.MLDSA65},
		"leaf of ML-DSA": {former, identity.MLDSA65},
	} {
		i := &issuer{ca: n.by, roots: both}
		nodes[name] = run(t, Config{TTL: time.Hour, Keys: n.keys}, i, i)
		hold(t, nodes[name], web)
	}
	for dialer, from := range nodes {
		for listener, to := range nodes {
			client, _, err := from.Client(t.Context(), web, web)
			if err != nil {
				t.Fatal(dialer, err)
			}
			server, _, err := to.Server(t.Context(), web)
			if err != nil {
				t.Fatal(listener, err)
			}
			if e := shake(t, server, client); e.clientErr != nil || e.serverErr != nil {
				t.Errorf("%s to %s: %v, %v", dialer, listener, e.clientErr, e.serverErr)
			}
		}
	}
	// A chain of ML-DSA-65 is remembered as others are.
	pure := nodes["all of ML-DSA"]
	chain := append([]*x509.Certificate{pure.leaf(web)}, next.Issuer())
	if _, small := present(chain, x509.ExtKeyUsageServerAuth); !small {
		t.Errorf("a chain of %d bytes is verified at each handshake", len(chain[0].Raw)+len(chain[1].Raw))
	}
}
