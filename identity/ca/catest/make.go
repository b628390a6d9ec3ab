// SPDX-License-Identifier: Apache-2.0

// Package catest has CAs for tests, and the tests that every store of a CA passes.
package catest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"maps"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// TrustDomain is that of all CAs here.
var TrustDomain = spiffeid.RequireTrustDomainFromString("cluster.local")

// Made are the files of a new CA, as Culvert makes them.
func Made(t testing.TB) ca.Files {
	t.Helper()
	var place ca.Memory
	Load(t, &place)
	files, err := place.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	delete(files, ca.BundleFile)
	return files
}

// Load is a CA of a store.
func Load(t testing.TB, store ca.Store) *ca.CA {
	t.Helper()
	c, err := ca.New(ca.Options{TrustDomain: TrustDomain})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	return c
}

// Reissued are the files with another issuer under the same root, which an operator
// made and which is valid for an hour.
func Reissued(t testing.TB, files ca.Files) ca.Files {
	t.Helper()
	return issued(t, files, "another issuer", time.Now().Add(-time.Minute), time.Now().Add(time.Hour))
}

// Aged are the files with another issuer under the same root, as Culvert made it eleven
// months ago for a year.
func Aged(t testing.TB, files ca.Files) ca.Files {
	t.Helper()
	return issued(t, files, "culvert issuer", time.Now().Add(-11*30*24*time.Hour), time.Now().Add(30*24*time.Hour))
}

func issued(t testing.TB, files ca.Files, name string, from, to time.Time) ca.Files {
	t.Helper()
	root, err := x509.ParseCertificate(block(files[ca.RootFile]))
	if err != nil {
		t.Fatal(err)
	}
	rootKey, err := x509.ParsePKCS8PrivateKey(block(files[ca.RootKeyFile]))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{TrustDomain.ID().URL()}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}, root, key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	next := maps.Clone(files)
	next[ca.IssuerFile] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	next[ca.IssuerKeyFile] = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded})
	return next
}

func block(text []byte) []byte {
	b, _ := pem.Decode(text)
	return b.Bytes
}
