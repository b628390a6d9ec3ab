// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"slices"
)

// BundleHash names a set of roots: CA and node compare it to know that they mean the
// same. It is SHA-256 over the SHA-256 of each root's DER, sorted, each once; the
// sequence of the roots does not matter.
func BundleHash(roots []*x509.Certificate) [sha256.Size]byte {
	sums := make([][sha256.Size]byte, 0, len(roots))
	for _, root := range roots {
		sums = append(sums, sha256.Sum256(root.Raw))
	}
	slices.SortFunc(sums, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	hash := sha256.New()
	for _, sum := range slices.Compact(sums) {
		hash.Write(sum[:])
	}
	return [sha256.Size]byte(hash.Sum(nil))
}

// KeyHash names the key of a certificate: SHA-256 of its SubjectPublicKeyInfo. The
// certificates of a root that was renewed with its key have one.
func KeyHash(cert *x509.Certificate) [sha256.Size]byte {
	return sha256.Sum256(cert.RawSubjectPublicKeyInfo)
}
