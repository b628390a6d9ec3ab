// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// maxChain bounds what a peer makes us look at before it is known.
const maxChain = 8

// verifyChain verifies a leaf and its intermediates up to the bundle. It does
// not look at whom the leaf names.
func verifyChain(certs []*x509.Certificate, roots *bundle, usage x509.ExtKeyUsage, now time.Time) ([][]*x509.Certificate, error) {
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	if len(certs) > maxChain {
		return nil, fmt.Errorf("%d certificates, the limit is %d", len(certs), maxChain)
	}
	leaf := certs[0]
	// X509-SVID standard, 5.2: a leaf that could sign is refused.
	if leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0 {
		return nil, errors.New("the certificate is an authority's, not a workload's")
	}
	intermediates := x509.NewCertPool()
	for _, cert := range certs[1:] {
		intermediates.AddCert(cert)
	}
	return leaf.Verify(x509.VerifyOptions{
		Roots:         roots.pool,
		Intermediates: intermediates,
		KeyUsages:     []x509.ExtKeyUsage{usage},
		CurrentTime:   now,
	})
}

// chainsUntil is when the last of the chains breaks: each breaks with the
// first of its certificates that expires, roots included.
func chainsUntil(chains [][]*x509.Certificate) time.Time {
	var until time.Time
	for _, chain := range chains {
		first := chain[0].NotAfter
		for _, cert := range chain[1:] {
			if cert.NotAfter.Before(first) {
				first = cert.NotAfter
			}
		}
		if first.After(until) {
			until = first
		}
	}
	return until
}

// matchPeer accepts exactly one workload.
func matchPeer(want spiffeid.ID) func(spiffeid.ID) error {
	return func(id spiffeid.ID) error {
		if id != want {
			return fmt.Errorf("the peer is %v, want %v", id, want)
		}
		return nil
	}
}

// matchDomain accepts any workload of a trust domain.
func matchDomain(td spiffeid.TrustDomain) func(spiffeid.ID) error {
	return func(id spiffeid.ID) error {
		if !id.MemberOf(td) {
			return fmt.Errorf("the peer %v is not of the trust domain %v", id, td)
		}
		return nil
	}
}

// workloadOf is the one workload that a leaf names.
func workloadOf(leaf *x509.Certificate) (spiffeid.ID, error) {
	id, err := identity.FromCertificate(leaf)
	if err != nil {
		return spiffeid.ID{}, err
	}
	_, err = identity.Parse(id)
	return id, err
}
