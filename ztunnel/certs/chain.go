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
	last := len(chain) - 1
	roots, err := parseRoots([]byte(chain[last]))
	if err != nil {
		return Issued{}, fmt.Errorf("roots of the CA's answer: %v", err)
	}
	issued := Issued{Roots: roots}
	for i, text := range chain[:last] {
		certs, err := parseCerts([]byte(text))
		if err != nil {
			return Issued{}, fmt.Errorf("certificate %d of the CA's answer: %v", i, err)
		}
		issued.Chain = append(issued.Chain, certs...)
	}
	return issued, nil
}

// parseCerts reads PEM certificates, of which there is at least one.
func parseCerts(text []byte) ([]*x509.Certificate, error) {
	certs, err := decodeCerts(text)
	if err != nil {
		return nil, err
	}
	if len(certs) == 0 {
		return nil, errors.New("no certificate")
	}
	return certs, nil
}

// parseRoots reads what it can: one root that Go does not understand must not
// cost us those that it does.
func parseRoots(text []byte) ([]*x509.Certificate, error) {
	certs, err := decodeCerts(text)
	if len(certs) > 0 {
		return certs, nil
	}
	if err == nil {
		err = errors.New("no certificate")
	}
	return nil, err
}

// decodeCerts returns the certificates that it could read, and what is wrong
// with the others.
func decodeCerts(text []byte) ([]*x509.Certificate, error) {
	var (
		certs    []*x509.Certificate
		problems []error
	)
	for rest := bytes.TrimSpace(text); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			problems = append(problems, errors.New("not PEM"))
			break
		}
		if block.Type != "CERTIFICATE" {
			problems = append(problems, fmt.Errorf("a PEM block of type %q, want a certificate", block.Type))
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		certs = append(certs, cert)
	}
	return certs, errors.Join(problems...)
}
