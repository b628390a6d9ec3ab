// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"time"
)

// Subject is what asks for a certificate, or shows one. What is empty is not known, and
// matches nothing.
type Subject struct {
	ID     string // SPIFFE ID
	Node   string
	SPKI   string // SHA-256 of its SubjectPublicKeyInfo, in lower-case hexadecimal digits
	Issuer string // subject key identifier of what signed, or would sign, likewise
	Serial string // of a certificate, likewise, without leading zeros
}

// Chain is a certificate and all above it as Subjects, leaf first. Each but the leaf is an
// issuer, and names itself as one: the word of what it signed is not needed for that.
type Chain []Subject

// ChainOf reads a chain of certificates that was verified. id is the leaf's.
func ChainOf(certs []*x509.Certificate, id string) Chain {
	return append(Chain{LeafOf(certs[0], id)}, IssuersOf(certs[1:])...)
}

// LeafOf is the leaf of a chain.
func LeafOf(cert *x509.Certificate, id string) Subject {
	leaf := subjectOf(cert)
	leaf.ID = id
	return leaf
}

// IssuersOf is what stands above a leaf.
func IssuersOf(certs []*x509.Certificate) Chain {
	chain := make(Chain, len(certs))
	for i, cert := range certs {
		chain[i] = subjectOf(cert)
		chain[i].Issuer = hex.EncodeToString(cert.SubjectKeyId)
	}
	return chain
}

func subjectOf(cert *x509.Certificate) Subject {
	spki := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return Subject{SPKI: hex.EncodeToString(spki[:]), Serial: cert.SerialNumber.Text(16)}
}

// MatchChains returns an entry that denies a leaf at that time. The leaf may have several
// chains: one of which nothing is denied is enough.
func (s *Set) MatchChains(chains []Chain, now time.Time) (denied Entry, is bool) {
	for _, chain := range chains {
		entry, found := s.matchAny(chain, now)
		if !found {
			return Entry{}, false
		}
		denied, is = entry, true
	}
	return denied, is
}

func (s *Set) matchAny(chain Chain, now time.Time) (Entry, bool) {
	for _, subject := range chain {
		if entry, is := s.Match(subject, now); is {
			return entry, true
		}
	}
	return Entry{}, false
}

// Error says that an entry denies somebody.
type Error struct {
	Who   string // as "the peer"
	Entry Entry
}

// Error names who is denied, and by which entry.
func (e *Error) Error() string { return fmt.Sprintf("%s is denied: %v", e.Who, e.Entry) }

// Denied tells this error from others to whoever does not import the package.
func (e *Error) Denied() bool { return true }
