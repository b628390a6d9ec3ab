// SPDX-License-Identifier: Apache-2.0

// Package clitest is a mesh on paper, the same in every run: certificates by keys that
// are no secret, at a time that stands still, and servers that answer as ztunnel and the
// CA do.
package clitest

import (
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/url"
	"time"

	"github.com/youmark/pkcs8"
)

// Now is when it is in the mesh.
var Now = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

// Day is 24 hours.
const Day = 24 * time.Hour

// Signer is a certificate with its key.
type Signer struct {
	Cert *x509.Certificate
	Key  ed25519.PrivateKey
	By   *Signer // itself, if it signed itself
}

// Mint makes a certificate whose key, and so the whole, is always the same for a name.
// By nil signs itself.
func Mint(name string, by *Signer, from, to time.Time, change func(*x509.Certificate)) *Signer {
	seed := sha256.Sum256([]byte(name))
	s := &Signer{Key: ed25519.NewKeyFromSeed(seed[:]), By: by}
	seed[0] |= 0x40 // so that the serial number has 127 bits
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(seed[:16]), NotBefore: from, NotAfter: to, BasicConstraintsValid: true,
	}
	change(template)
	if by == nil {
		s.By, s.Cert = s, template
	}
	der, err := x509.CreateCertificate(nil, template, s.By.Cert, s.Key.Public(), s.By.Key)
	if err != nil {
		panic(err)
	}
	if s.Cert, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	return s
}

// Authority makes a root, or an issuer if by is one.
func Authority(name string, by *Signer, from, to time.Time) *Signer {
	return Mint(name, by, from, to, func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage = pkix.Name{CommonName: name}, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign
		if by != nil {
			c.MaxPathLenZero = true
		}
	})
}

// Leaf makes a workload's certificate.
func (s *Signer) Leaf(id string, from, to time.Time) *Signer {
	uri, err := url.Parse(id)
	if err != nil {
		panic(err)
	}
	return Mint(id+from.String(), s, from, to, func(c *x509.Certificate) {
		c.URIs, c.KeyUsage = []*url.URL{uri}, x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	})
}

// Server makes a certificate for DNS names.
func (s *Signer) Server(from, to time.Time, names ...string) *Signer {
	return Mint(names[0], s, from, to, func(c *x509.Certificate) {
		c.DNSNames, c.KeyUsage = names, x509.KeyUsageDigitalSignature
		c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	})
}

// PEM is the certificate.
func (s *Signer) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Cert.Raw})
}

// KeyPEM is its private key, in PKCS#8.
func (s *Signer) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s.Key)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// SealedPEM is its private key, encrypted by a passphrase.
func (s *Signer) SealedPEM(passphrase string) []byte {
	der, err := pkcs8.MarshalPrivateKey(s.Key, []byte(passphrase), &pkcs8.Opts{
		Cipher: pkcs8.AES256CBC, KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 8, IterationCount: 1000, HMACHash: crypto.SHA256},
	})
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der})
}

// CertManager are the files of a CA as cert-manager keeps it, whose own issuer does not
// know the root: ca.crt is the direct parent.
func CertManager(parent, issuer *Signer) map[string][]byte {
	return map[string][]byte{"ca.crt": parent.PEM(), "tls.crt": issuer.PEM(), "tls.key": issuer.KeyPEM()}
}

// Parent makes an authority under a root that an issuer can be under.
func Parent(name string, root *Signer, from, to time.Time) *Signer {
	return Mint(name, root, from, to, func(c *x509.Certificate) {
		c.Subject, c.IsCA, c.KeyUsage, c.MaxPathLen = pkix.Name{CommonName: name}, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, 1
	})
}

// Files are those of a CA: a root and an issuer under it, with their keys.
func Files(root, issuer *Signer) map[string][]byte {
	return map[string][]byte{
		"root.pem": root.PEM(), "root.key": root.KeyPEM(),
		"issuer.pem": issuer.PEM(), "issuer.key": issuer.KeyPEM(),
	}
}
