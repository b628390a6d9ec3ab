// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// authority is what a CA signs with at one time.
type authority struct {
	layout Layout
	roots  []*x509.Certificate // what verifiers must trust, each once
	anchor *x509.Certificate   // of the roots that the chain leads to and that hold, the last to expire
	chain  []*x509.Certificate // the issuer, then what signed it, up to below the anchor
	key    crypto.Signer       // the issuer's
	form   *form               // of its leaves; nil: x509.CreateCertificate makes them

	warnings []Defect
	backdate time.Duration // see span
}

func (a *authority) issuer() *x509.Certificate { return a.chain[0] }

// notAfter is when the first certificate expires that a leaf needs above it.
func (a *authority) notAfter() time.Time {
	end := a.anchor.NotAfter
	for _, cert := range a.chain {
		end = earliest(end, cert.NotAfter)
	}
	return end
}

// notBefore is when the last of them begins to hold.
func (a *authority) notBefore() time.Time {
	begin := a.anchor.NotBefore
	for _, cert := range a.chain {
		begin = latest(begin, cert.NotBefore)
	}
	return begin
}

// workload signs a leaf that names a workload, for both sides of a tunnel. Its subject
// is empty, or the name of a process.
func (a *authority) workload(id spiffeid.ID, process string, key crypto.PublicKey, ttl time.Duration, dnsNames []string) (Issued, error) {
	if a.form == nil {
		cert, err := a.leaf(&x509.Certificate{
			Subject:     subjectOf(process),
			URIs:        []*url.URL{id.URL()},
			DNSNames:    dnsNames,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		}, key, ttl)
		if err != nil {
			return Issued{}, err
		}
		return Issued{cert.Raw, cert.SerialNumber, cert.NotBefore, cert.NotAfter, a.chain}, nil
	}
	notBefore, notAfter, err := a.span(ttl)
	if err != nil {
		return Issued{}, err
	}
	n, err := serial()
	if err != nil {
		return Issued{}, err
	}
	leaf, err := a.form.sign(particulars{n, id, dnsNames, process, key, notBefore, notAfter})
	if err != nil {
		return Issued{}, err
	}
	return Issued{leaf, n, notBefore, notAfter, a.chain}, nil
}

// leaf completes the template and signs it. An empty subject makes crypto/x509 mark
// the SAN critical (RFC 5280, 4.2.1.6).
func (a *authority) leaf(template *x509.Certificate, key crypto.PublicKey, ttl time.Duration) (*x509.Certificate, error) {
	var err error
	if template.NotBefore, template.NotAfter, err = a.span(ttl); err != nil {
		return nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.BasicConstraintsValid = true
	return create(template, a.issuer(), key, a.key)
}

// span is when a leaf made now is valid, in whole seconds.
func (a *authority) span(ttl time.Duration) (notBefore, notAfter time.Time, err error) {
	now := time.Now()
	ttl = min(max(ttl, MinTTL), MaxTTL)
	// A quarter, so that a peer which renews at the middle between NotBefore
	// and NotAfter (Istio's ztunnel) finds that middle in the future. A mesh whose
	// clocks may be off by more has to do without such peers, or with long lifetimes.
	backdate := min(maxBackdate, ttl/4)
	if a.backdate > maxBackdate {
		backdate = a.backdate
	}
	end := a.notAfter()
	if left := end.Sub(now); left < MinTTL {
		return time.Time{}, time.Time{}, fmt.Errorf("%w: %v left of the issuer, less than the shortest leaf", ErrExpired, left.Round(time.Second))
	}
	notBefore, notAfter = latest(now.Add(-backdate), a.notBefore()), earliest(now.Add(ttl), end)
	return notBefore.UTC().Truncate(time.Second), notAfter.UTC().Truncate(time.Second), nil
}

// above is the leaf with what a peer needs to verify it under a root.
func (a *authority) above(leaf *x509.Certificate) []*x509.Certificate {
	return append([]*x509.Certificate{leaf}, a.chain...)
}

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
