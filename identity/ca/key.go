// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity/signing"
)

// Types of PEM blocks that hold a private key.
const (
	pkcs8Key     = "PRIVATE KEY"
	pkcs8Secret  = "ENCRYPTED PRIVATE KEY"
	pkcs1Key     = "RSA PRIVATE KEY"
	sec1Key      = "EC PRIVATE KEY"
	openSSHKey   = "OPENSSH PRIVATE KEY"
	ecParameters = "EC PARAMETERS" // openssl ecparam -genkey writes them before the key
)

func isPrivateKey(kind string) bool { return strings.HasSuffix(kind, pkcs8Key) }

// privateKey reads the one key of a file, or returns nil and says why.
func (e *examination) privateKey(name string) crypto.Signer {
	blocks := e.blocks(name, maxChain, maxCerts)
	if blocks == nil {
		return nil
	}
	blocks = slices.DeleteFunc(blocks, func(b *pem.Block) bool { return b.Type == ecParameters })
	switch {
	case len(blocks) == 0:
		e.report(noKey, name, "%s holds %q and no key", name, ecParameters)
	case slices.ContainsFunc(blocks, func(b *pem.Block) bool { return b.Type == "CERTIFICATE" }):
		e.report(certAmongKeys, name, "%s holds a certificate", name)
	case len(blocks) > 1:
		e.report(manyKeys, name, "%s holds %d PEM blocks, want one private key", name, len(blocks))
	case blocks[0].Type == openSSHKey:
		e.report(sshKey, name, "%s is a key in the format of OpenSSH", name)
	case blocks[0].Type == signing.BlockType:
		return e.signerKey(name, blocks[0])
	case !isPrivateKey(blocks[0].Type):
		e.report(noKey, name, "%s holds a %q, want a %q", name, blocks[0].Type, pkcs8Key)
	default:
		return e.parseKey(name, blocks[0])
	}
	return nil
}

func (e *examination) parseKey(name string, block *pem.Block) crypto.Signer {
	block, ok := e.decrypted(name, block)
	if !ok {
		return nil
	}
	key, err := parseKey(block)
	if err != nil {
		e.report(badKey, name, "%s cannot be read: %v", name, err)
		return nil
	}
	signer, ok := key.(crypto.Signer)
	if !ok { // of X25519
		e.report(badKey, name, "%s is a %T, which signs nothing", name, key)
		return nil
	}
	return signer
}

func parseKey(block *pem.Block) (any, error) {
	switch block.Type {
	case pkcs8Key:
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case pkcs1Key:
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case sec1Key:
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("a %q is not supported, want PKCS#8, PKCS#1 or SEC 1", block.Type)
}

// fits reports whether the key is that of the certificate.
func fits(key crypto.Signer, cert certificate) bool {
	public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(cert.PublicKey)
}
