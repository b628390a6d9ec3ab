// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// Mint signs an SVID with this CA's key, for a test that speaks HBONE itself,
// and returns it with the roots that the mesh trusts. No node could: the lab
// reads the CA's own directory.
func (i *Identity) Mint(id string, ttl time.Duration) (tls.Certificate, *x509.CertPool, error) {
	roots := x509.NewCertPool()
	fail := func(err error) (tls.Certificate, *x509.CertPool, error) {
		return tls.Certificate{}, nil, fmt.Errorf("mint %s: %w", id, err)
	}
	spiffe, err := spiffeid.FromString(id)
	if err != nil {
		return fail(err)
	}
	authority, err := ca.Open(i.caDir(), ca.Options{TrustDomain: spiffe.TrustDomain()})
	if err != nil {
		return fail(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fail(err)
	}
	chain, err := authority.Sign(csr, spiffe, ttl)
	if err != nil {
		return fail(err)
	}
	cert := tls.Certificate{PrivateKey: key}
	for _, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
	}
	for _, c := range authority.Roots() {
		roots.AddCert(c)
	}
	return cert, roots, nil
}
