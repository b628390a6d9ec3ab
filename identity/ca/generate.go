// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/mldsa"
	"crypto/x509"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/signing"
)

// issuerName is the common name of issuers that Culvert makes. One of another name is
// its operator's, and is never replaced.
const issuerName = "culvert issuer"

// generate makes root and issuer.
//
// P-256 for both, unless another kind is asked for: each handshake verifies the issuer under
// the root, and a P-384 signature takes Go ten times as long.
func generate(opts Options) (Files, error) {
	rootKey, err := keyFor(opts.RootKey, opts.Keys)
	if err != nil {
		return nil, err
	}
	root, err := selfSigned(opts, rootKey)
	if err != nil {
		return nil, err
	}
	files, err := generateIssuer(opts, opts.IssuerTTL, root, rootKey)
	if err != nil {
		return nil, err
	}
	files[RootFile] = encodeCert(root)
	files[RootKeyFile], err = encodeKey(rootKey)
	return files, err
}

// keyFor is a signer's key, or a new one.
func keyFor(held *signing.Key, kind identity.KeyKind) (crypto.Signer, error) {
	if held != nil {
		return held, nil
	}
	return kind.New()
}

func selfSigned(opts Options, key crypto.Signer) (*x509.Certificate, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	// The number makes the subject unique: verifiers look roots up by it, and
	// two roots of one name slow down or confuse some of them.
	template := authorityTemplate(fmt.Sprintf("culvert root %x", n.Bytes()[:4]), opts.TrustDomain, opts.RootTTL, 1)
	return create(template, template, key.Public(), key)
}

// generateIssuer makes an issuer under a root, which it does not outlive. Its key is of the
// kind of the root's, unless it is that of opts.
func generateIssuer(opts Options, ttl time.Duration, root *x509.Certificate, rootKey crypto.Signer) (Files, error) {
	kind := identity.P256
	if _, ok := rootKey.(*mldsa.PrivateKey); ok {
		kind = identity.MLDSA65
	}
	key, err := keyFor(opts.IssuerKey, kind)
	if err != nil {
		return nil, err
	}
	template := authorityTemplate(issuerName, opts.TrustDomain, ttl, 0)
	template.NotAfter = earliest(template.NotAfter, root.NotAfter)
	issuer, err := create(template, root, key.Public(), rootKey)
	if err != nil {
		return nil, err
	}
	files := Files{IssuerFile: encodeCert(issuer)}
	files[IssuerKeyFile], err = encodeKey(key)
	return files, err
}
