// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/mldsa"
	"crypto/x509"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	caserver "github.com/culvert-mesh/culvert/identity/server"
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
	chain := []*x509.Certificate{pure.leaf(web), next.Issuer(), next.Issuer()} // one in place of an intermediate
	if _, small := present(chain, x509.ExtKeyUsageServerAuth); !small {
		t.Errorf("a chain of %d bytes is verified at each handshake", len(chain[0].Raw)+2*len(chain[1].Raw))
	}
}

// Each certificate that an issuer of ML-DSA-65 signs comes with that issuer: 9 KB together.
func TestTheAnswerToAWholeBatchIsTakenUnderAnIssuerOfMLDSA(t *testing.T) {
	authority, err := ca.Open(t.TempDir(), ca.Options{TrustDomain: td, Keys: identity.MLDSA65})
	if err != nil {
		t.Fatal(err)
	}
	key, err := newPrivateKey(identity.P256)
	if err != nil {
		t.Fatal(err)
	}
	var requests []Request
	var pods []caserver.Running
	for n := range identityv1.MaxBatch {
		csr, err := key.csr(service(n))
		if err != nil {
			t.Fatal(err)
		}
		requests = append(requests, Request{ID: service(n), CSR: csr})
		pods = append(pods, caserver.Running{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: service(n).Path()[len("/ns/shop/sa/"):]}, UID: "u"})
	}
	if n := batchSize(requests); n < 100 {
		t.Fatalf("no more than %d are asked for at once", n)
	}
	placement := caserver.NewPlacement()
	placement.Replace(pods, nil)
	_, cfg := serveReal(t, caserver.Config{CA: authority, Placement: placement, NodeBurst: 4 * identityv1.MaxBatch}) // a slow answer is asked for again
	for n, result := range dial(t, cfg).IssueAll(soon(t), requests) {
		if result.Err != nil {
			t.Fatalf("%v: %v", requests[n].ID, result.Err)
		}
	}
}
