// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Issued is a leaf, and what a peer needs to verify it under a root.
type Issued struct {
	Leaf                []byte // DER
	Serial              *big.Int
	NotBefore, NotAfter time.Time
	Above               []*x509.Certificate // its issuer and the intermediates above that, without the root; for reading only
}

// Issue makes a leaf that says the holder of a key which ParseCSR has returned is id, for
// ttl bounded to MinTTL and MaxTTL and to what the issuer has left.
//
// The leaf of a process outside Kubernetes also bears the name by which the CA knows the
// process, as its subject's serialNumber (X.520, 6.2.9); that of a node's pod has none, and
// an empty subject. By it alone a leaf that renews itself is told from one that must
// not. Peers do not look at it.
//
// DNS names, beside the SPIFFE ID, are those of pods or Services of the identity's
// namespace: for verifiers that know no SPIFFE ID. Nobody in the mesh looks at them.
func (c *CA) Issue(key crypto.PublicKey, id spiffeid.ID, process string, ttl time.Duration, dnsNames ...string) (Issued, error) {
	if td := c.TrustDomain(); !id.MemberOf(td) {
		return Issued{}, fmt.Errorf("sign %v: not of the trust domain %v", id, td)
	}
	sa, err := identity.Parse(id)
	if err != nil {
		return Issued{}, err
	}
	foreign := func(name string) bool { return !sa.OwnDNSName(name) }
	if i := slices.IndexFunc(dnsNames, foreign); i >= 0 {
		return Issued{}, fmt.Errorf("sign %v: %q is not the DNS name of a pod or Service of its namespace", id, dnsNames[i])
	}
	if fit := identity.FitDNSNames(dnsNames); len(fit) < len(dnsNames) {
		return Issued{}, fmt.Errorf("sign %v: %d DNS names, of which %d fit into a certificate", id, len(dnsNames), len(fit))
	}
	a := c.inForce.Load()
	if a == nil {
		return Issued{}, fmt.Errorf("sign %v: %w", id, ErrNotOpen)
	}
	issued, err := a.workload(id, process, key, ttl, dnsNames)
	if err != nil {
		return Issued{}, fmt.Errorf("sign %v: %w", id, err)
	}
	return issued, nil
}

// ProcessOf is the name of the process that Issue put into a leaf, or empty.
func ProcessOf(leaf *x509.Certificate) string {
	if len(leaf.Subject.Names) != 1 {
		return ""
	}
	return leaf.Subject.SerialNumber
}
