// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// parseIssued reads cert_chain: the leaf, then intermediates, and last a
// string with one root or several.
func parseIssued(chain []string) (Issued, error) {
	if len(chain) < 2 {
		return Issued{}, fmt.Errorf("the CA answered with %d certificates, want leaf to root", len(chain))
	}
	if len(chain) > maxChain {
		return Issued{}, fmt.Errorf("the CA answered with %d certificates, the limit is %d", len(chain), maxChain)
	}
	var issued Issued
	for i, text := range chain {
		certs, err := parseCerts([]byte(text))
		if err != nil {
			return Issued{}, fmt.Errorf("certificate %d of the CA's answer: %v", i, err)
		}
		if i == len(chain)-1 {
			issued.Roots = certs
		} else {
			issued.Chain = append(issued.Chain, certs...)
		}
	}
	return issued, nil
}

// parseCerts reads PEM certificates, of which there is at least one.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return nil, errors.New("not PEM")
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("a PEM block of type %q, want a certificate", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}
