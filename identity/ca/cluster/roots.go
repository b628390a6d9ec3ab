// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"slices"
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

// withRoot is the text with our root in it. It is as before if the root is there
// and all else can be read: comments are somebody's. Other roots stay: whoever
// changes the CA's root has both in there for a while. What is no root goes.
func withRoot(text string, root *x509.Certificate) string {
	roots, clean := parseRoots([]byte(text))
	ours := slices.ContainsFunc(roots, root.Equal)
	if clean && ours {
		return text
	}
	if !ours {
		roots = append(roots, root)
	}
	var out bytes.Buffer
	for _, cert := range roots {
		// A Buffer takes everything.
		_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
	}
	return out.String()
}
