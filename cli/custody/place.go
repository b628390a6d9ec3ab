// SPDX-License-Identifier: Apache-2.0

// Package custody is an operator's hand on a CA's certificates and keys: where they are,
// how they leave that place, and how they come back.
//
// Keys leave only encrypted, by age. Nothing is written over a CA, or over the trace of
// one: whatever nodes still trust may hang on it.
package custody

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// maxFile bounds what is read as one file of a CA: a bundle of many roots.
const maxFile = 1 << 20

// Place is where a CA's files, or only its roots, are. Its String says which.
type Place interface {
	// Read returns all that is there and may be of a CA, keys too; nil if nothing is.
	Read(ctx context.Context) (ca.Files, error)
	fmt.Stringer
}

// Keep is a Place that a CA is kept in, and can be put into.
type Keep interface {
	Place
	// Create stores a CA where there is none, and no trace of one.
	Create(ctx context.Context, files ca.Files) error
	// Replace stores files in the place of those of the same names, if all is still as
	// it was read.
	Replace(ctx context.Context, read, next ca.Files) error
}

// Certificate is one that was found in a place.
type Certificate struct {
	Cert  *x509.Certificate
	Place string // of which place
	File  string // name of the file
	// Root says that verifiers trust it: it is among the roots of the layout, as the direct
	// parent of cert-manager's issuer may be, or it is self-signed.
	Root bool
}

// Certificates returns those of a place's files, each once, by the files' names. What
// is no certificate is left out.
func Certificates(ctx context.Context, p Place) ([]Certificate, error) {
	files, err := p.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p, err)
	}
	return Parse(files, p.String()), nil
}

// Parse returns the certificates in files, each once, by the files' names.
func Parse(files ca.Files, place string) (all []Certificate) {
	roots := files.Roots()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for rest := files[name]; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil || slices.ContainsFunc(all, func(c Certificate) bool { return c.Cert.Equal(cert) && c.File == name }) {
				continue
			}
			root := bytes.Equal(cert.RawSubject, cert.RawIssuer) || slices.ContainsFunc(roots, cert.Equal)
			all = append(all, Certificate{cert, place, name, root})
		}
	}
	return all
}
