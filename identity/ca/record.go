// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// maxDropped is how many dropped roots a Record remembers, the latest.
const maxDropped = 16

// maxGeneration is beyond all generations: they are times in seconds. A greater number,
// which somebody wrote, would leave no room for the next.
const maxGeneration = 1 << 48

// Record is what is kept of a bundle: its number, and which roots it is about. Roots
// are named by the SHA-256 of the certificate in DER, in hexadecimal.
type Record struct {
	Generation uint64   `json:"generation"`
	Roots      []string `json:"roots"`             // sorted
	Dropped    []string `json:"dropped,omitempty"` // the latest last; none of Roots
}

// ParseRecord reads the content of BundleFile. Nothing at all is the zero Record.
func ParseRecord(text []byte) (Record, error) {
	var r Record
	if len(text) == 0 {
		return r, nil
	}
	if err := json.Unmarshal(text, &r); err != nil {
		return Record{}, fmt.Errorf("%s: %v", BundleFile, err)
	}
	if r.Generation > maxGeneration {
		return Record{}, fmt.Errorf("%s: generation %d is none that Culvert wrote", BundleFile, r.Generation)
	}
	return r, nil
}

// Encode is the content of BundleFile.
func (r Record) Encode() []byte {
	text, _ := json.Marshal(r) // of numbers and strings: it does not fail
	return append(text, '\n')
}

// Is reports whether the record is of these roots.
func (r Record) Is(roots []*x509.Certificate) bool {
	return r.Generation > 0 && slices.Equal(r.Roots, Fingerprints(roots))
}

// next is the record of another set.
func (r Record) next(generation uint64, roots []*x509.Certificate) Record {
	next := Record{Generation: generation, Roots: Fingerprints(roots)}
	for _, root := range append(slices.Clone(r.Dropped), r.Roots...) {
		if !slices.Contains(next.Roots, root) && !slices.Contains(next.Dropped, root) {
			next.Dropped = append(next.Dropped, root)
		}
	}
	next.Dropped = next.Dropped[max(0, len(next.Dropped)-maxDropped):]
	return next
}

// Fingerprint names a certificate by the SHA-256 of its DER, in hexadecimal.
func Fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.Raw)
	return hex.EncodeToString(sum[:])
}

// Fingerprints are those of a set of certificates, each once, sorted.
func Fingerprints(certs []*x509.Certificate) []string {
	var all []string
	for _, cert := range certs {
		all = append(all, Fingerprint(cert))
	}
	slices.Sort(all)
	return slices.Compact(all)
}
