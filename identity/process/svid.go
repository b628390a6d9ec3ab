// SPDX-License-Identifier: Apache-2.0

package process

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// svid is one certificate with its key.
type svid struct {
	id    spiffeid.ID
	key   *ecdsa.PrivateKey
	chain []*x509.Certificate // the leaf first, without the root
	roots []*x509.Certificate
}

// fingerprint is the SHA-256 of a certificate.
type fingerprint [sha256.Size]byte

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newSVID checks that this is what was asked for: served unchecked, a wrong answer
// would make the process somebody else, or nobody.
func newSVID(key *ecdsa.PrivateKey, chain, roots []*x509.Certificate, now time.Time) (*svid, error) {
	if len(chain) == 0 || len(roots) == 0 {
		return nil, errors.New("want a certificate and a root")
	}
	leaf := chain[0]
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is of another key")
	}
	id, err := identity.FromCertificate(leaf)
	if err == nil {
		_, err = identity.Parse(id)
	}
	if err != nil {
		return nil, err
	}
	s := &svid{id: id, key: key, chain: chain, roots: roots}
	return s, s.verify(now)
}

// verify asks for both sides of a connection. A clock that is behind must not keep us
// from a certificate which peers, whose clocks may be right, find valid.
func (s *svid) verify(now time.Time) error {
	if start := s.leaf().NotBefore; now.Before(start) {
		now = start
	}
	opts := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: now}
	for _, root := range s.roots {
		opts.Roots.AddCert(root)
	}
	for _, cert := range s.chain[1:] {
		opts.Intermediates.AddCert(cert)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		opts.KeyUsages = []x509.ExtKeyUsage{usage}
		if _, err := s.leaf().Verify(opts); err != nil {
			return err
		}
	}
	return nil
}

func (s *svid) leaf() *x509.Certificate { return s.chain[0] }

// until is when the first of the chain expires.
func (s *svid) until() time.Time {
	return slices.MinFunc(s.chain, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) }).NotAfter
}

func (s *svid) valid(now time.Time) bool { return now.Round(0).Before(s.until()) }

// renewal counts from when the certificate came.
func (s *svid) renewal(came time.Time) time.Time {
	return came.Add(identity.RenewAfter(s.until().Sub(came)))
}

// overdue reports whether an operator should know that it was not renewed.
func (s *svid) overdue(now time.Time) bool {
	left := s.until().Sub(now.Round(0))
	return left < s.until().Sub(s.leaf().NotBefore)/4
}

// keepRoots are those of an answer, and those that only this one answer does not name:
// replicas of the CA may not know of each other's yet.
func (k *keeper) keepRoots(named []*x509.Certificate) []*x509.Certificate {
	kept, missing := slices.Clone(named), map[fingerprint]bool{}
	if k.current != nil {
		for _, root := range k.current.roots {
			if slices.ContainsFunc(named, root.Equal) {
				continue
			}
			print := fingerprint(sha256.Sum256(root.Raw))
			if !k.missing[print] {
				missing[print] = true
				kept = append(kept, root)
			}
		}
	}
	k.missing = missing
	return kept
}

// parseCerts reads PEM certificates, of which there is at least one.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("want certificates in PEM, and nothing else")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate")
	}
	return certs, nil
}

func encodeCerts(certs []*x509.Certificate) []byte {
	var text bytes.Buffer
	for _, cert := range certs {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}) // a Buffer takes everything
	}
	return text.Bytes()
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey quotes nothing of the text.
func parseKey(text []byte) (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, errors.New("there is no key in PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key is not PKCS#8")
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, want ECDSA", key)
	}
	return signer, nil
}
