// SPDX-License-Identifier: Apache-2.0

// Package ca is a small certificate authority: one root, one issuer under it,
// and leaves that name a workload by its SPIFFE ID. It decides nothing about
// who may have which identity; that is identity/server.
package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// Bounds of a leaf's lifetime.
const (
	MinTTL = identity.MinTTL
	MaxTTL = identity.MaxTTL
)

// maxBackdate is how far a leaf's NotBefore lies in the past at most, for
// verifiers whose clock is behind ours.
const maxBackdate = time.Minute

// ErrExpired is wrapped when the root or the issuer has expired, or has less
// than MinTTL left, so that nothing can be signed under it.
var ErrExpired = errors.New("certificate authority has expired")

// Options says what Open creates and expects.
type Options struct {
	TrustDomain spiffeid.TrustDomain // required
	RootTTL     time.Duration        // lifetime of a root created now; 10 years
	IssuerTTL   time.Duration        // lifetime of an issuer created now; 1 year
}

func (o Options) withDefaults() Options {
	if o.RootTTL == 0 {
		o.RootTTL = 10 * 365 * 24 * time.Hour
	}
	if o.IssuerTTL == 0 {
		o.IssuerTTL = 365 * 24 * time.Hour
	}
	return o
}

// CA signs leaves. It is safe for concurrent use.
type CA struct {
	td     spiffeid.TrustDomain
	root   *x509.Certificate
	issuer *x509.Certificate
	key    crypto.Signer // the issuer's
}

// TrustDomain is the one domain that the CA signs for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.td }

// Roots are what a verifier must trust.
func (c *CA) Roots() []*x509.Certificate { return []*x509.Certificate{c.root} }

// Issuer is the certificate that signs leaves.
func (c *CA) Issuer() *x509.Certificate { return c.issuer }

// Sign makes a leaf that says the holder of the CSR's key is id, for ttl
// bounded to MinTTL and MaxTTL and to what the issuer has left. Nothing but
// the public key is taken from the CSR, which is PEM or DER. The chain is the
// leaf and its issuer, without the root.
func (c *CA) Sign(csr []byte, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	if !id.MemberOf(c.td) {
		return nil, fmt.Errorf("sign %v: not of the trust domain %v", id, c.td)
	}
	if _, err := identity.Parse(id); err != nil {
		return nil, err
	}
	key, err := ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		URIs:        []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	leaf, err := c.leaf(template, key, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign %v: %w", id, err)
	}
	return []*x509.Certificate{leaf, c.issuer}, nil
}

// leaf completes the template and signs it. The subject stays empty, which
// makes crypto/x509 mark the SAN critical (RFC 5280, 4.2.1.6).
func (c *CA) leaf(template *x509.Certificate, key crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	ttl = min(max(ttl, MinTTL), MaxTTL)
	// A quarter, so that a peer which renews at the middle between NotBefore
	// and NotAfter (Istio's ztunnel) finds that middle in the future.
	template.NotBefore = latest(now.Add(-min(maxBackdate, ttl/4)), c.issuer.NotBefore)
	template.NotAfter = earliest(now.Add(ttl), c.NotAfter())
	if left := c.NotAfter().Sub(now); left < MinTTL {
		return nil, fmt.Errorf("%w: %v left of the issuer, less than the shortest leaf", ErrExpired, left.Round(time.Second))
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return create(template, c.issuer, key, c.key)
}

// NotAfter is when the first of root and issuer expires, and with it all that
// was signed under them.
func (c *CA) NotAfter() time.Time { return earliest(c.root.NotAfter, c.issuer.NotAfter) }

// create signs the template with a fresh serial and reads the result back.
func create(template, parent *x509.Certificate, key crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	var err error
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// serial is 128 random bits.
func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %v", err)
	}
	return n.Add(n, big.NewInt(1)), nil // RFC 5280, 4.1.2.2: not zero
}

// authority is the template of a CA certificate. Its URI SAN is the trust
// domain without a path, as the X509-SVID standard wants of a signer.
func authority(name string, td spiffeid.TrustDomain, ttl time.Duration, pathLen int) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: name},
		URIs:                  []*url.URL{td.ID().URL()},
		NotBefore:             now.Add(-maxBackdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            pathLen,
		MaxPathLenZero:        pathLen == 0,
	}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
