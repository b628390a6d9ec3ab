// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
)

// KeyKind is of which kind keys are made, of authorities and of leaves.
type KeyKind string

// Kinds of keys.
const (
	P256    KeyKind = "p256"    // ECDSA: small and fast, and not for the days of quantum computers
	MLDSA65 KeyKind = "mldsa65" // FIPS 204: a key and a signature have 5 KiB more than P256's
)

// KeyKinds are all of them; the first is the default.
var KeyKinds = []KeyKind{P256, MLDSA65}

// ParseKeyKind reads the name of a kind.
func ParseKeyKind(s string) (KeyKind, error) {
	if kind := KeyKind(s); slices.Contains(KeyKinds, kind) {
		return kind, nil
	}
	return "", fmt.Errorf("there is no such kind of keys: want one of %v", KeyKinds)
}

// New makes a key. Of no kind, it is of the first.
func (k KeyKind) New() (crypto.Signer, error) {
	switch k {
	case P256, "":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case MLDSA65:
		return mldsa.GenerateKey(mldsa.MLDSA65())
	}
	return nil, fmt.Errorf("there is no kind of keys %q", string(k))
}

// maxRSABits is the largest RSA key whose signatures are checked.
const maxRSABits = 4096

// CheckKey says what is wrong with the key of a certificate that a peer may
// present. Whoever checks signatures of others bounds by it what one costs: a
// signature by P-521 takes thirty times as long as one by P-256.
func CheckKey(cert *x509.Certificate) error {
	switch key := cert.PublicKey.(type) {
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() || key.Curve == elliptic.P384() {
			return nil
		}
		return fmt.Errorf("its key is of the curve %s, want P-256 or P-384", key.Curve.Params().Name)
	case ed25519.PublicKey:
		return nil
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n > maxRSABits {
			return fmt.Errorf("its RSA key has %d bits, the limit is %d", n, maxRSABits)
		}
		return nil
	case *mldsa.PublicKey:
		if key.Parameters() == mldsa.MLDSA65() {
			return nil
		}
		return fmt.Errorf("its key is %v, want ML-DSA-65", key.Parameters())
	}
	return fmt.Errorf("its key is %v, want ECDSA, Ed25519, ML-DSA-65 or RSA", cert.PublicKeyAlgorithm)
}
