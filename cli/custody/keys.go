// SPDX-License-Identifier: Apache-2.0

package custody

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// PrivateKey is a private key that was found.
type PrivateKey struct {
	File      string
	Encrypted bool          // in its file
	Signer    crypto.Signer // nil if it was not opened, or cannot be read: Problem says why
	Problem   string
	By        string // URI of the signer that has the key; empty: the file has it
}

// Fits reports whether the key is that of a certificate.
func (k PrivateKey) Fits(cert *x509.Certificate) bool {
	if k.Signer == nil {
		return false
	}
	public, ok := k.Signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}

// Sealed reports whether the key is encrypted and was not opened: whose it is is not known.
func (k PrivateKey) Sealed() bool { return k.Encrypted && k.Signer == nil }

// Keys returns the private keys in files, by the files' names. Those that are encrypted are
// opened by the passphrase in a file; without one they stay Sealed.
func Keys(files ca.Files, passphraseFile string) (all []PrivateKey) {
	for _, name := range slices.Sorted(maps.Keys(files)) {
		for rest := files[name]; ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if block.Type == signing.BlockType {
				all = append(all, heldKey(name, block))
			}
			if strings.HasSuffix(block.Type, "PRIVATE KEY") {
				all = append(all, privateKey(name, block, passphraseFile))
			}
		}
	}
	return all
}

// heldKey is one of a signer, by its reference: the signer is not asked.
func heldKey(file string, block *pem.Block) PrivateKey {
	key, err := signing.Parse(block)
	if err != nil {
		return PrivateKey{File: file, Problem: err.Error()}
	}
	return PrivateKey{File: file, Signer: key, By: key.String()}
}

func privateKey(file string, block *pem.Block, passphraseFile string) PrivateKey {
	k := PrivateKey{File: file, Encrypted: Encrypted(block)}
	if k.Encrypted && passphraseFile == "" {
		k.Problem = "it is encrypted, and was not opened"
		return k
	}
	clear, err := ca.OpenKey(block, passphraseFile)
	var signer crypto.Signer
	if err == nil {
		signer, err = ParseKey(clear)
	}
	if err != nil {
		k.Problem = err.Error()
		return k
	}
	k.Signer = signer
	return k
}

// Encrypted reports whether a private key is, in PKCS#8 or as RFC 1423 has it.
func Encrypted(block *pem.Block) bool {
	return block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != ""
}

// ParseKey reads a private key that is not encrypted: PKCS#8, SEC 1 or PKCS#1. No error
// quotes it.
func ParseKey(block *pem.Block) (crypto.Signer, error) {
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		return nil, fmt.Errorf("a %q is not supported, want PKCS#8, SEC 1 or PKCS#1", block.Type)
	}
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key is a %T, which signs nothing", key)
	}
	return signer, nil
}
