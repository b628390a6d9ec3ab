// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
)

// maxFile bounds what is read as one certificate or key.
const maxFile = 64 << 10

// parse reads the four files and checks that they are a CA that nodes accept.
func (c *CA) parse(files Files) (*authority, error) {
	root, rootKey, err := files.pair(RootFile, RootKeyFile)
	if err != nil {
		return nil, err
	}
	issuer, issuerKey, err := files.pair(IssuerFile, IssuerKeyFile)
	if err != nil {
		return nil, err
	}
	if err := checkPair(RootFile, root, RootKeyFile, rootKey); err != nil {
		return nil, err
	}
	if err := checkPair(IssuerFile, issuer, IssuerKeyFile, issuerKey); err != nil {
		return nil, err
	}
	a := &authority{root: root, issuer: issuer, key: issuerKey}
	return a, a.check(c.opts)
}

func (f Files) pair(certName, keyName string) (*x509.Certificate, crypto.Signer, error) {
	block, err := f.block(certName, "CERTIFICATE")
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %v", certName, err)
	}
	block, err = f.block(keyName, "PRIVATE KEY", "EC PRIVATE KEY")
	if err != nil {
		return nil, nil, err
	}
	key, err := parseKey(block)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %v", keyName, err)
	}
	return cert, key, nil
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	if block.Type == "EC PRIVATE KEY" {
		return x509.ParseECPrivateKey(block.Bytes)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	signer, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, want ECDSA", key)
	}
	return signer, nil
}

// block finds exactly one PEM block of one of the types in a file. No error
// quotes its content: it may be a key.
func (f Files) block(name string, types ...string) (*pem.Block, error) {
	text, there := f[name]
	if !there {
		return nil, fmt.Errorf("%s is missing", name)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("%s is longer than %d bytes", name, maxFile)
	}
	block, rest := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s holds no PEM", name)
	}
	if next, _ := pem.Decode(rest); next != nil {
		return nil, fmt.Errorf("%s holds more than one PEM block", name)
	}
	for _, want := range types {
		if block.Type == want {
			return block, nil
		}
	}
	return nil, fmt.Errorf("%s holds a %q, want a %q", name, block.Type, types[0])
}

func encodeCert(cert *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}
