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
	"sync"
	"sync/atomic"
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

// ErrNotOpen is wrapped by Sign while the CA has no issuer.
var ErrNotOpen = errors.New("certificate authority is not open yet")

// Options says what a CA creates and expects.
type Options struct {
	TrustDomain spiffeid.TrustDomain // required
	ServerNames []string             // DNS names that the CA's server must be able to prove; none
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
	opts    Options
	mu      sync.Mutex                // held by Take
	inForce atomic.Pointer[authority] // nil until the first Take
}

// authority is what a CA signs with at one time.
type authority struct {
	root   *x509.Certificate
	issuer *x509.Certificate
	key    crypto.Signer // the issuer's
}

// New returns a CA that has no issuer yet: until Load, or Take, it signs nothing.
func New(opts Options) (*CA, error) {
	if opts.TrustDomain.IsZero() {
		return nil, errors.New("open CA: no trust domain")
	}
	return &CA{opts: opts.withDefaults()}, nil
}

// TrustDomain is the one domain that the CA signs for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.opts.TrustDomain }

// Roots are what a verifier must trust; none before Load.
func (c *CA) Roots() []*x509.Certificate {
	if a := c.inForce.Load(); a != nil {
		return []*x509.Certificate{a.root}
	}
	return nil
}

// Issuer is the certificate that signs leaves now; nil before Load.
func (c *CA) Issuer() *x509.Certificate {
	if a := c.inForce.Load(); a != nil {
		return a.issuer
	}
	return nil
}

// NotAfter is when the first of root and issuer expires, and with it all that
// was signed under them. It is zero before Load.
func (c *CA) NotAfter() time.Time {
	if a := c.inForce.Load(); a != nil {
		return a.notAfter()
	}
	return time.Time{}
}

// Sign makes a leaf that says the holder of the CSR's key is id, for ttl
// bounded to MinTTL and MaxTTL and to what the issuer has left. Nothing but
// the public key is taken from the CSR, which is PEM or DER. The chain is the
// leaf and its issuer, without the root.
func (c *CA) Sign(csr []byte, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	if td := c.TrustDomain(); !id.MemberOf(td) {
		return nil, fmt.Errorf("sign %v: not of the trust domain %v", id, td)
	}
	if _, err := identity.Parse(id); err != nil {
		return nil, err
	}
	key, err := ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	a := c.inForce.Load()
	if a == nil {
		return nil, fmt.Errorf("sign %v: %w", id, ErrNotOpen)
	}
	leaf, err := a.workload(id, key, ttl)
	if err != nil {
		return nil, fmt.Errorf("sign %v: %w", id, err)
	}
	return []*x509.Certificate{leaf, a.issuer}, nil
}

// workload signs a leaf that names a workload, for both sides of a tunnel.
func (a *authority) workload(id spiffeid.ID, key crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	return a.leaf(&x509.Certificate{
		URIs:        []*url.URL{id.URL()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, key, ttl)
}

// leaf completes the template and signs it. The subject stays empty, which
// makes crypto/x509 mark the SAN critical (RFC 5280, 4.2.1.6).
func (a *authority) leaf(template *x509.Certificate, key crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	now := time.Now()
	ttl = min(max(ttl, MinTTL), MaxTTL)
	// A quarter, so that a peer which renews at the middle between NotBefore
	// and NotAfter (Istio's ztunnel) finds that middle in the future.
	template.NotBefore = latest(now.Add(-min(maxBackdate, ttl/4)), a.issuer.NotBefore)
	template.NotAfter = earliest(now.Add(ttl), a.notAfter())
	if left := a.notAfter().Sub(now); left < MinTTL {
		return nil, fmt.Errorf("%w: %v left of the issuer, less than the shortest leaf", ErrExpired, left.Round(time.Second))
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return create(template, a.issuer, key, a.key)
}

func (a *authority) notAfter() time.Time { return earliest(a.root.NotAfter, a.issuer.NotAfter) }

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

// authorityTemplate is the template of a CA certificate. Its URI SAN is the trust
// domain without a path, as the X509-SVID standard wants of a signer.
func authorityTemplate(name string, td spiffeid.TrustDomain, ttl time.Duration, pathLen int) *x509.Certificate {
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
