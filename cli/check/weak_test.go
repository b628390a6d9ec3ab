// SPDX-License-Identifier: Apache-2.0

package check

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
)

// weakRoot has a key that was enough long ago. Go makes none so short any more, so the
// certificate is no valid one: what is looked at is its key.
func weakRoot(t *testing.T) *x509.Certificate { return weak(t, "weak") }

func weakIssuer(t *testing.T) *x509.Certificate {
	cert := weak(t, "weak issuer")
	cert.RawIssuer = root.Cert.RawSubject
	return cert
}

func weak(t *testing.T, name string) *x509.Certificate {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	subject := pkix.Name{CommonName: name}
	return &x509.Certificate{
		Raw: []byte(name), RawSubject: []byte(name), RawIssuer: []byte(name), Subject: subject, Issuer: subject, IsCA: true, KeyUsage: x509.KeyUsageCertSign,
		PublicKey: &rsa.PublicKey{N: new(big.Int).Rsh(key.N, 1024), E: key.E}, NotBefore: now.Add(-day), NotAfter: now.Add(1000 * day),
	}
}
