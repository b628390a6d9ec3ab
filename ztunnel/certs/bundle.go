// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"maps"
)

// bundle is the set of roots of our trust domain, as the CA last gave it.
type bundle struct {
	roots []*x509.Certificate
	pool  *x509.CertPool
	set   map[[sha256.Size]byte]bool
	proofs
}

func newBundle(roots []*x509.Certificate) (*bundle, error) {
	b := &bundle{pool: x509.NewCertPool(), set: make(map[[sha256.Size]byte]bool)}
	for _, root := range roots {
		if sum := sha256.Sum256(root.Raw); !b.set[sum] {
			b.set[sum] = true
			b.roots = append(b.roots, root)
			b.pool.AddCert(root)
		}
	}
	if len(b.roots) == 0 {
		return nil, errors.New("the trust bundle is empty")
	}
	return b, nil
}

// equal ignores the order: a CA may list the same roots differently.
func (b *bundle) equal(other *bundle) bool {
	return other != nil && maps.Equal(b.set, other.set)
}
