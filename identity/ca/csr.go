// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/mldsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	der "golang.org/x/crypto/cryptobyte/asn1"
)

// maxCSR bounds what is decoded: a CSR for a P-384 key is below 2 KiB, one for an ML-DSA-65
// key below 8.
const maxCSR = 16 << 10

const pemCSR = "CERTIFICATE REQUEST"

// ErrKeyNotAllowed is wrapped by ParseCSR for a key of a kind that is not certified.
var ErrKeyNotAllowed = errors.New("want ECDSA on P-256 or P-384, Ed25519 or ML-DSA-65")

// ErrKeyNotProved is wrapped by ParseCSR if the signature is not the key's.
var ErrKeyNotProved = errors.New("the sender does not prove that it holds the key")

// ParseCSR returns the public key of a CSR in PEM or DER whose signature
// proves that its sender holds the private one. Only ECDSA on P-256 or P-384, Ed25519 and
// ML-DSA-65 are accepted: making an RSA key takes a node a thousand times longer.
func ParseCSR(csr []byte) (crypto.PublicKey, error) {
	if len(csr) > maxCSR {
		return nil, fmt.Errorf("CSR is %d bytes long, the limit is %d", len(csr), maxCSR)
	}
	text, err := csrDER(csr)
	if err != nil {
		return nil, err
	}
	request, err := readRequest(text)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %v", err)
	}
	key, err := x509.ParsePKIXPublicKey(request.key)
	if err != nil {
		return nil, fmt.Errorf("parse CSR: %v", err)
	}
	if !allowed(key) { // before its signature costs anything
		return nil, fmt.Errorf("key of the CSR is %s, %w", kindOf(key), ErrKeyNotAllowed)
	}
	if err := request.proves(key); err != nil {
		return nil, fmt.Errorf("signature of the CSR: %w: %v", ErrKeyNotProved, err)
	}
	return key, nil
}

// request is a CertificationRequest (RFC 2986, 4.2), as far as it is read: subject and
// attributes are what the sender wishes, and nothing is taken from them.
type request struct {
	signed     []byte // CertificationRequestInfo
	key        []byte // SubjectPublicKeyInfo
	algorithm  asn1.ObjectIdentifier
	parameters bool // of the algorithm
	signature  []byte
}

func readRequest(text []byte) (r request, err error) {
	input := cryptobyte.String(text)
	var outer, signed, contents, key, algorithm cryptobyte.String
	var version int
	switch {
	case !input.ReadASN1(&outer, der.SEQUENCE) || !input.Empty():
		return r, errors.New("it is not one SEQUENCE in DER")
	case !outer.ReadASN1Element(&signed, der.SEQUENCE) || !outer.ReadASN1(&algorithm, der.SEQUENCE) ||
		!outer.ReadASN1BitStringAsBytes(&r.signature) || !outer.Empty():
		return r, errors.New("it is not what was signed, an algorithm and a signature")
	}
	contents = signed
	switch {
	case !contents.ReadASN1(&contents, der.SEQUENCE) || !contents.ReadASN1Integer(&version) || version != 0:
		return r, errors.New("its version is not 0")
	case !contents.SkipASN1(der.SEQUENCE):
		return r, errors.New("it has no subject")
	case !contents.ReadASN1Element(&key, der.SEQUENCE):
		return r, errors.New("it has no public key")
	case !contents.SkipOptionalASN1(der.Tag(0).Constructed().ContextSpecific()) || !contents.Empty():
		return r, errors.New("it has more than attributes after its public key")
	case !algorithm.ReadASN1ObjectIdentifier(&r.algorithm):
		return r, errors.New("its signature's algorithm is no object identifier")
	}
	r.signed, r.key, r.parameters = signed, key, !algorithm.Empty()
	return r, nil
}

// proves says why the signature is not by the key, which is one that is allowed.
func (r request) proves(key crypto.PublicKey) error {
	var good bool
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		hash := ecdsaHash(r.algorithm)
		if hash == 0 {
			return fmt.Errorf("the algorithm %v is not ECDSA with SHA-2", r.algorithm)
		}
		digest := hash.New()
		digest.Write(r.signed)
		good = ecdsa.VerifyASN1(key, digest.Sum(nil), r.signature)
	case ed25519.PublicKey: // RFC 8410, 3: without parameters
		good = r.algorithm.Equal(oidEd25519) && !r.parameters && ed25519.Verify(key, r.signed, r.signature)
	case *mldsa.PublicKey: // RFC 9881, 2: without parameters
		good = r.algorithm.Equal(oidMLDSA65) && !r.parameters && mldsa.Verify(key, r.signed, r.signature, nil) == nil
	}
	if !good {
		return errors.New("it is not by that key")
	}
	return nil
}

// ecdsaHash is that of an algorithm of ECDSA (RFC 5758, 3.2), or 0.
func ecdsaHash(algorithm asn1.ObjectIdentifier) crypto.Hash {
	switch {
	case algorithm.Equal(oidECDSAWithSHA256):
		return crypto.SHA256
	case algorithm.Equal(oidECDSAWithSHA384):
		return crypto.SHA384
	case algorithm.Equal(oidECDSAWithSHA512):
		return crypto.SHA512
	}
	return 0
}

func allowed(key any) bool {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return key.Curve == elliptic.P256() || key.Curve == elliptic.P384()
	case ed25519.PublicKey:
		return true
	case *mldsa.PublicKey:
		return key.Parameters() == mldsa.MLDSA65()
	}
	return false
}

// kindOf is what sort of key it is, for people.
func kindOf(key any) string {
	switch key := key.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA on " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA of %d bits", key.N.BitLen())
	case *mldsa.PublicKey:
		return key.Parameters().String()
	}
	return fmt.Sprintf("a %T", key)
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
