// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// parseRoots returns the certificates of authorities in a text, each once, and
// whether the text holds nothing else that PEM could mean.
func parseRoots(text []byte) (roots []*x509.Certificate, clean bool) {
	clean = true
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case block.Type != "CERTIFICATE", err != nil, !cert.IsCA, slices.ContainsFunc(roots, cert.Equal):
			clean = false
		default:
			roots = append(roots, cert)
		}
	}
	return roots, clean && !bytes.Contains(text, []byte("-----"))
}

// withRoots is the text with our roots in it, and without those that we dropped. It is
// as before if that is so and all else can be read: comments are somebody's. Other
// roots stay: whoever changes the CA's root has both in there for a while. What is no
// root goes.
//
// A replica that is behind, whose bundle is older than the one recorded as theirs, adds
// none that were dropped since, and takes none out.
func withRoots(text string, roots []*x509.Certificate, ours, theirs ca.Record) string {
	there, clean := parseRoots([]byte(text))
	next := there
	if ours.Generation >= theirs.Generation {
		next = slices.DeleteFunc(slices.Clone(there), func(root *x509.Certificate) bool {
			name := ca.Fingerprint(root)
			return slices.Contains(ours.Dropped, name) || slices.Contains(theirs.Dropped, name) && !slices.Contains(ours.Roots, name)
		})
	}
	for _, root := range roots {
		behind := ours.Generation < theirs.Generation && slices.Contains(theirs.Dropped, ca.Fingerprint(root))
		if !behind && !slices.ContainsFunc(next, root.Equal) {
			next = append(next, root)
		}
	}
	if clean && slices.EqualFunc(there, next, (*x509.Certificate).Equal) {
		return text
	}
	var out bytes.Buffer
	for _, cert := range next {
		// A Buffer takes everything.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return out.String()
}
