// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"

	"github.com/culvert-mesh/culvert/identity"
)

// What a peer makes us look at before it is known.
const (
	maxChain     = 8        // certificates
	maxChainSize = 32 << 10 // bytes of them
	maxFailures  = 3        // signatures that are checked and do not hold
)

// errCostly is wrapped when a chain is refused for what it would cost to check.
var errCostly = errors.New("the chain is not checked")

// bound refuses a chain by its size and keys, before any signature is checked.
// Roots of ours may have the keys they like.
func (b *bundle) bound(certs []*x509.Certificate) error {
	if len(certs) > maxChain {
		return fmt.Errorf("%w: %d certificates, the limit is %d", errCostly, len(certs), maxChain)
	}
	size := 0
	for i, cert := range certs {
		if size += len(cert.Raw); size > maxChainSize {
			return fmt.Errorf("%w: certificates of more than %d bytes", errCostly, maxChainSize)
		}
		if err := identity.CheckKey(cert); err != nil && !b.set[sha256.Sum256(cert.Raw)] {
			return fmt.Errorf("%w: certificate %d: %v", errCostly, i, err)
		}
	}
	return nil
}

// signatureCheck is (*x509.Certificate).CheckSignatureFrom, which tests count.
type signatureCheck = func(cert, by *x509.Certificate) error

// path is those of the presented certificates that lead from the leaf up to one
// that a root of ours signed, in the order in which they were presented; nil if
// none do. What else was presented, as the root itself, is passed over.
//
// Names and key identifiers show where a path could be; then signatures are checked
// from the root downwards. So every key that a signature is checked with is a root's,
// or of an authority that is already known to lead to one: a stranger cannot choose
// its cost. crypto/x509 goes the other way, by up to a hundred signatures.
//
// Authorities below or after each other may have one name. Then their key identifiers
// tell them apart, and where these are missing, the last one presented is most likely
// a root's. Only in the end names alone count: two certificates of one key may have
// other identifiers.
func (b *bundle) path(certs []*x509.Certificate, check signatureCheck) []*x509.Certificate {
	if b.set[sha256.Sum256(certs[0].Raw)] { // crypto/x509 asks for no more either
		return certs[:1]
	}
	failures := 0
	holds := func(cert, by *x509.Certificate) bool {
		if failures < maxFailures && check(cert, by) == nil {
			return true
		}
		failures++
		return false
	}
	for _, fits := range []fit{byKey, byName} {
		for top := len(certs); top > 0; top-- {
			if path := fits.path(certs[:top]); path != nil && b.signed(path, fits, holds) {
				return path
			}
		}
	}
	return nil
}

// fit reports whether one certificate says that another signed it.
type fit func(cert, by *x509.Certificate) bool

func byName(cert, by *x509.Certificate) bool { return bytes.Equal(cert.RawIssuer, by.RawSubject) }

// byKey is for those that name no key, too: most have no name in common with others.
func byKey(cert, by *x509.Certificate) bool {
	return byName(cert, by) && (len(cert.AuthorityKeyId) == 0 || bytes.Equal(cert.AuthorityKeyId, by.SubjectKeyId))
}

// path is that from the last certificate down to the first, as far as can be seen; nil
// if there is none. Of two that are cross-signed it takes the one that fits.
func (fits fit) path(certs []*x509.Certificate) []*x509.Certificate {
	last := len(certs) - 1
	path, at := []*x509.Certificate{certs[last]}, last
	for i := last - 1; i >= 0; i-- {
		if fits(certs[i], certs[at]) {
			path, at = append(path, certs[i]), i
		}
	}
	if at != 0 {
		return nil
	}
	slices.Reverse(path)
	return path
}

// signed reports whether a root of ours signed the last of the path, and each
// signed the one before it.
func (b *bundle) signed(path []*x509.Certificate, fits fit, holds func(cert, by *x509.Certificate) bool) bool {
	by := len(path) - 1
	for _, root := range b.roots {
		if !fits(path[by], root) || !holds(path[by], root) {
			continue
		}
		for by > 0 && holds(path[by-1], path[by]) {
			by--
		}
		return by == 0
	}
	return false
}
