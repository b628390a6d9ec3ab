// SPDX-License-Identifier: Apache-2.0

// Package certstest makes certificates for tests: those that a CA of the mesh
// would sign, and those that none would.
//
// What cannot go wrong panics, so that a certificate can be made anywhere.
package certstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Signer is a certificate with its key, by which it may sign others.
type Signer struct {
	Cert *x509.Certificate
	Key  crypto.Signer
	By   *Signer // itself, if it signed itself
}

// NewCA returns a root that outlives every test, even one whose clock is fake.
func NewCA() *Signer { return Mint(Authority("root"), NewKey(elliptic.P256()), nil) }

// NewKey returns a key on a curve.
func NewKey(curve elliptic.Curve) *ecdsa.PrivateKey {
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		panic(err)
	}
	return key
}

// Mint makes the certificate of key that by signs; nil: key itself. What the
// template leaves out is filled in: a serial number, and an hour before and after
// now, or ten thousand for an authority.
func Mint(template *x509.Certificate, key crypto.Signer, by *Signer) *Signer {
	complete(template)
	made := &Signer{Cert: template, Key: key, By: by}
	if by == nil {
		made.By = made
	}
	der, err := x509.CreateCertificate(rand.Reader, template, made.By.Cert, key.Public(), made.By.Key)
	if err != nil {
		panic(err)
	}
	if made.Cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return made
}

func complete(template *x509.Certificate) {
	if template.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
		if err != nil {
			panic(err)
		}
		template.SerialNumber = serial.Add(serial, big.NewInt(1))
	}
	if template.NotAfter.IsZero() {
		life := time.Hour
		if template.IsCA {
			life = 10000 * time.Hour
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(life)
	}
}

// Authority is the template of a certificate that may sign others, but for what
// the changes make of it.
func Authority(name string, changes ...func(*x509.Certificate)) *x509.Certificate {
	return changed(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, changes)
}

// Leaf is the template of a workload's certificate, but for what the changes make
// of it.
func Leaf(id spiffeid.ID, changes ...func(*x509.Certificate)) *x509.Certificate {
	return changed(&x509.Certificate{
		URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, changes)
}

func changed(c *x509.Certificate, changes []func(*x509.Certificate)) *x509.Certificate {
	for _, change := range changes {
		change(c)
	}
	return c
}

// Lasting changes a template to end after a while.
func Lasting(ttl time.Duration) func(*x509.Certificate) {
	return func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(ttl) }
}

// Leaf signs a workload's certificate.
func (s *Signer) Leaf(id spiffeid.ID, changes ...func(*x509.Certificate)) *Signer {
	return Mint(Leaf(id, changes...), NewKey(elliptic.P256()), s)
}

// TLS is the certificate as crypto/tls presents it, without those above it.
func (s *Signer) TLS() tls.Certificate {
	return tls.Certificate{Certificate: [][]byte{s.Cert.Raw}, PrivateKey: s.Key}
}

// Pool trusts the certificate as a root.
func (s *Signer) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.Cert)
	return pool
}
