// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
)

// maxCSR bounds what is decoded: a CSR for a P-384 key is below 2 KiB.
const maxCSR = 16 << 10

const pemCSR = "CERTIFICATE REQUEST"

// ParseCSR returns the public key of a CSR in PEM or DER whose signature
// proves that its sender holds the private one. Only ECDSA on P-256 or P-384
// is accepted: making an RSA key takes a node a thousand times longer.
func ParseCSR(csr []byte) (*ecdsa.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, fmt.Errorf("CSR is %d bytes long, the limit is %d", len(csr), maxCSR)
	}
	der, err := csrDER(csr)
	if err != nil {
		return nil, err
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %v", err)
	}
	key, ok := request.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() && key.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key of the CSR is %v, want ECDSA on P-256 or P-384", request.PublicKeyAlgorithm)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("signature of the CSR: %v", err)
	}
	return key, nil
}

func csrDER(csr []byte) ([]byte, error) {
	if !bytes.HasPrefix(bytes.TrimSpace(csr), []byte("-----BEGIN")) {
		return csr, nil
	}
	block, rest := pem.Decode(csr)
	if block == nil {
		return nil, errors.New("CSR is neither PEM nor DER")
	}
	if block.Type != pemCSR && block.Type != "NEW "+pemCSR {
		return nil, fmt.Errorf("CSR is a PEM block of type %q, want %q", block.Type, pemCSR)
	}
	if len(bytes.TrimSpace(rest)) != 0 {
		return nil, errors.New("CSR has something after its PEM block")
	}
	return block.Bytes, nil
}
