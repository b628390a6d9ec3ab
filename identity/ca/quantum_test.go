// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/mldsa"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"testing"

	"github.com/culvert-mesh/culvert/identity"
)

// csrOf is a CSR by a key of ML-DSA.
func csrOf(t *testing.T, params mldsa.Parameters) []byte {
	t.Helper()
	key, err := mldsa.GenerateKey(params)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func TestACSROfMLDSAIsOfOneSizeAndProved(t *testing.T) {
	good := csrOf(t, mldsa.MLDSA65())
	if _, err := ParseCSR(good); err != nil {
		t.Error(err)
	}
	for _, params := range []mldsa.Parameters{mldsa.MLDSA44(), mldsa.MLDSA87()} {
		if _, err := ParseCSR(csrOf(t, params)); !errors.Is(err, ErrKeyNotAllowed) {
			t.Errorf("%v: %v", params, err)
		}
	}
	good[len(good)-1] ^= 1
	if _, err := ParseCSR(good); !errors.Is(err, ErrKeyNotProved) {
		t.Errorf("another signature: %v", err)
	}
	// The algorithm of another size, with this key.
	csr, info := split(t, csrOf(t, mldsa.MLDSA65()))
	csr.Algorithm.Algorithm[len(csr.Algorithm.Algorithm)-1]--
	if _, err := ParseCSR(marshal(t, csr)); !errors.Is(err, ErrKeyNotProved) {
		t.Errorf("another algorithm: %v, version %d", err, info.Version)
	}
}

// A root of ML-DSA has issuers of it, the first and those that follow, whatever the process
// that makes them is told.
func TestIssuersHaveTheKindOfTheirRoot(t *testing.T) {
	files, err := Make(Options{TrustDomain: td, Keys: identity.MLDSA65})
	if err != nil {
		t.Fatal(err)
	}
	rootKey := keyOf(files[RootKeyFile])
	next, err := NextIssuer(files, rootKey, Options{TrustDomain: td}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"root": files[RootFile], "issuer": files[IssuerFile], "next": next[IssuerFile]} {
		certs, err := certificatesOf(text)
		if err != nil || len(certs) != 1 {
			t.Fatalf("%s: %d, %v", name, len(certs), err)
		}
		if key, ok := certs[0].PublicKey.(*mldsa.PublicKey); !ok || key.Parameters() != mldsa.MLDSA65() || identity.CheckKey(certs[0]) != nil {
			t.Errorf("%s: a key of %T, %v", name, certs[0].PublicKey, identity.CheckKey(certs[0]))
		}
	}
}
