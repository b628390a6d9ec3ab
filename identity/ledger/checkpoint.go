// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Checkpoint says how far a chain had come at a time.
type Checkpoint struct {
	Replica string    `json:"replica"`
	Chain   string    `json:"chain,omitempty"` // ID, at random since seq 1; none: an older version wrote it
	Seq     uint64    `json:"seq"`
	Hash    string    `json:"hash"` // of line Seq, in hexadecimal
	Time    time.Time `json:"time"`

	// State is how the process is, in a head; empty in a line of the chain.
	State State  `json:"state,omitempty"`
	Boot  string `json:"boot,omitempty"` // of the machine, in a head

	Signer    string `json:"signer,omitempty"` // SHA-256 of the key, in hexadecimal; none: it is not signed
	Signature []byte `json:"signature,omitempty"`
}

// purpose begins what is signed: no certificate and no handshake does.
const purpose = "culvert ledger checkpoint 1\n"

func (c Checkpoint) digest() []byte {
	c.Signature = nil
	text, _ := json.Marshal(c) // of numbers and strings: it does not fail
	sum := sha256.Sum256(append([]byte(purpose), text...))
	return sum[:]
}

// Subject is the common name of the certificate by which a replica signs checkpoints.
func Subject(replica string) string { return "culvert ledger " + replica }

// signer signs checkpoints by a key of its own, which is never stored.
type signer struct {
	key   *ecdsa.PrivateKey
	name  string              // of the key, as Checkpoint.Signer
	certs []*x509.Certificate // its own first, without the root

	// Both are guarded by Ledger.mu.
	seq    uint64  // of the line that names it; 0: none does yet
	before *signer // whose line was in a file when this one came; nil: none
}

// upTo returns the signer of a checkpoint of line seq: one that holds, and that a line up to
// there names. Nil: there is none, and the checkpoint has no signature.
func (s *signer) upTo(seq uint64, now time.Time) *signer {
	for ; s != nil; s = s.before {
		if s.seq != 0 && s.seq <= seq && s.holds(now) {
			return s
		}
	}
	return nil
}

// newSigner makes a key and has it certified.
func newSigner(certify func(crypto.PublicKey) ([]*x509.Certificate, error)) (*signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	certs, err := certify(key.Public())
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate was given")
	}
	return &signer{key: key, name: nameOfKey(certs[0]), certs: certs}, nil
}

func nameOfKey(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// sign completes a checkpoint. Without a signer it stays without a signature.
func (s *signer) sign(c Checkpoint) Checkpoint {
	if s == nil {
		return c
	}
	c.Signer = s.name
	signature, err := ecdsa.SignASN1(rand.Reader, s.key, c.digest())
	if err != nil {
		c.Signer = ""
		return c
	}
	c.Signature = signature
	return c
}

// stale reports whether the signer should be followed by another: half of its life is
// over, or another issuer signs.
func (s *signer) stale(now time.Time, issuer *x509.Certificate) bool {
	if s == nil {
		return true
	}
	cert := s.certs[0]
	middle := cert.NotBefore.Add(cert.NotAfter.Sub(cert.NotBefore) / 2)
	return now.Before(cert.NotBefore) || !now.Before(middle) || issuer != nil && len(s.certs) > 1 && !s.certs[1].Equal(issuer)
}

// holds reports whether the signer's certificate is valid now.
func (s *signer) holds(now time.Time) bool {
	return s != nil && !now.Before(s.certs[0].NotBefore) && now.Before(s.certs[0].NotAfter)
}

// signers are the keys that a chain has named, and the roots that may vouch for them.
type signers struct {
	roots *x509.CertPool // nil: signatures are not verified
	known map[string][]*x509.Certificate
}

func newSigners(roots []*x509.Certificate) *signers {
	s := &signers{known: map[string][]*x509.Certificate{}}
	if roots == nil {
		return s
	}
	s.roots = x509.NewCertPool()
	for _, root := range roots {
		s.roots.AddCert(root)
	}
	return s
}

// learn takes the certificates of a line.
func (s *signers) learn(ders [][]byte) error {
	var certs []*x509.Certificate
	for _, der := range ders {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("its certificate cannot be read: %v", err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return errors.New("it has no certificate")
	}
	s.known[nameOfKey(certs[0])] = certs
	return nil
}

// errUnsigned says that a checkpoint was made while the CA could certify no key.
var errUnsigned = errors.New("it has no signature")

// verify says why the checkpoint is not by a key that a root vouched for at its time.
func (s *signers) verify(c Checkpoint) error {
	if c.Signer == "" {
		return errUnsigned
	}
	certs := s.known[c.Signer]
	if certs == nil {
		return fmt.Errorf("its signer %s stands in no line before", c.Signer)
	}
	key, ok := certs[0].PublicKey.(*ecdsa.PublicKey)
	if !ok || !ecdsa.VerifyASN1(key, c.digest(), c.Signature) {
		return errors.New("its signature is not by its signer's key")
	}
	if s.roots == nil {
		return nil
	}
	return s.vouched(certs, c)
}

func (s *signers) vouched(certs []*x509.Certificate, c Checkpoint) error {
	leaf := certs[0]
	names := len(leaf.URIs) + len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses)
	if leaf.IsCA || names > 0 || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}) || leaf.Subject.CommonName != Subject(c.Replica) {
		return fmt.Errorf("the certificate of its signer is not one for the ledger of %s", c.Replica)
	}
	between := x509.NewCertPool()
	for _, cert := range certs[1:] {
		between.AddCert(cert)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between, CurrentTime: c.Time, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		top := certs[len(certs)-1]
		return fmt.Errorf("no root that was given vouches for its signer (%s, by %s): %v", leaf.Subject.CommonName, strings.TrimSpace(top.Issuer.CommonName), err)
	}
	return nil
}
