// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
)

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
	}
	return fmt.Errorf("its key is %v, want ECDSA, Ed25519 or RSA", cert.PublicKeyAlgorithm)
}
