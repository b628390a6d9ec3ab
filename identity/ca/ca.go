// SPDX-License-Identifier: Apache-2.0

// Package ca is a small certificate authority: roots that others trust, one issuer
// under one of them, and leaves that name a workload by its SPIFFE ID. It decides nothing about
// who may have which identity; that is identity/server.
package ca

import (
	"crypto"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// Bounds of a leaf's lifetime.
const (
	MinTTL = identity.MinTTL
	MaxTTL = identity.MaxTTL
)

// maxBackdate is how far a leaf's NotBefore lies in the past at most, unless
// Options.ClockSkew is more, for
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
	LeafNames   []string             // DNS names that leaves must be able to have, beside the SPIFFE ID; none
	RootTTL     time.Duration        // lifetime of a root created now; 10 years
	IssuerTTL   time.Duration        // lifetime of an issuer created now; 1 year
	ClockSkew   time.Duration        // how far clocks of the mesh may be off: leaves are backdated by it; at most identity.MaxClockSkew; 0
	MustExist   bool                 // refuse to make a CA where there is none
	Keys        identity.KeyKind     // of a root created now, and of its issuers; P256
	LeafTTL     time.Duration        // that leaves will be asked for; an issuer should live six times as long; unknown

	// RootKey and IssuerKey are of signers, for a CA that is made now; keys of the kind Keys are made.
	RootKey, IssuerKey *signing.Key

	// Upstream has the root of a CA that is made now, and signs its issuers. None: a root is made.
	Upstream Upstream

	// PassphraseFile holds what encrypted private keys are opened by, in one line; it
	// is read whenever keys are. None: encrypted keys are refused.
	PassphraseFile string
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
	bundle  atomic.Pointer[bundle]    // nil until the first Take
	news    news
	tainted atomic.Pointer[[]Key]       // nil: none
	foreign atomic.Pointer[Federations] // nil: none

	upstream attempts // to have an issuer
}

// New returns a CA that has no issuer yet: until Load, or Take, it signs nothing.
func New(opts Options) (*CA, error) {
	if opts.TrustDomain.IsZero() {
		return nil, errors.New("open CA: no trust domain")
	}
	if opts.ClockSkew < 0 || opts.ClockSkew > identity.MaxClockSkew {
		return nil, fmt.Errorf("open CA: clock skew %v, want 0 to %v", opts.ClockSkew, identity.MaxClockSkew)
	}
	opts = opts.withDefaults()
	if opts.IssuerTTL < leavesInLife*opts.LeafTTL {
		return nil, fmt.Errorf("open CA: an issuer that lives for %v is too short for leaves of %v: want %d times as long", opts.IssuerTTL, opts.LeafTTL, leavesInLife)
	}
	return &CA{opts: opts}, nil
}

// TrustDomain is the one domain that the CA signs for.
func (c *CA) TrustDomain() spiffeid.TrustDomain { return c.opts.TrustDomain }

// Roots are what a verifier must trust, as Bundle returns them; none before Load.
func (c *CA) Roots() []*x509.Certificate {
	_, roots := c.Bundle()
	return roots
}

// Layout says under which names the files were found; none before Load.
func (c *CA) Layout() Layout {
	if a := c.inForce.Load(); a != nil {
		return a.layout
	}
	return ""
}

// Issuer is the certificate that signs leaves now; nil before Load.
func (c *CA) Issuer() *x509.Certificate {
	if a := c.inForce.Load(); a != nil {
		return a.issuer()
	}
	return nil
}

// Chain is the issuer and the intermediates above it, without the root; none before Load.
func (c *CA) Chain() []*x509.Certificate {
	if a := c.inForce.Load(); a != nil {
		return slices.Clone(a.chain)
	}
	return nil
}

// NotAfter is when the first of root, intermediates and issuer expires, and with it
// all that was signed under them. It is zero before Load.
func (c *CA) NotAfter() time.Time {
	if a := c.inForce.Load(); a != nil {
		return a.notAfter()
	}
	return time.Time{}
}

// Sign is Certify for the key of a CSR, which is PEM or DER. Nothing but the public
// key is taken from it.
func (c *CA) Sign(csr []byte, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	key, err := ParseCSR(csr)
	if err != nil {
		return nil, err
	}
	return c.Certify(key, id, ttl)
}

// Certify is Issue for a workload, with the leaf parsed. The chain is the leaf, its
// issuer and the intermediates above it, without the root.
func (c *CA) Certify(key crypto.PublicKey, id spiffeid.ID, ttl time.Duration) ([]*x509.Certificate, error) {
	issued, err := c.Issue(key, id, "", ttl)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(issued.Leaf)
	if err != nil {
		return nil, err
	}
	return append([]*x509.Certificate{leaf}, issued.Above...), nil
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
