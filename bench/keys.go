// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
)

// serverName is in the certificate of the proxies that verify a DNS name.
const serverName = "bench.test"

// keys is the CA of the columns that are no mesh, and its one certificate, for
// both ends. P-256, a leaf below a root.
type keys struct {
	dir string
	load.Credential
	bundle string // certificate and key in one file, as HAProxy reads them
}

func newKeys(dir string) (*keys, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench root"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: root.NotBefore, NotAfter: root.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, &rootKey.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, &key.PublicKey, rootKey)
	if err != nil {
		return nil, err
	}
	credential, err := load.WriteCredential(dir, "bench", tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, rootDER)
	if err != nil {
		return nil, err
	}
	k := &keys{dir: dir, Credential: credential, bundle: filepath.Join(dir, "bundle.pem")}
	cert, cerr := os.ReadFile(k.Cert)
	private, kerr := os.ReadFile(k.Key)
	return k, errors.Join(cerr, kerr, os.WriteFile(k.bundle, append(cert, private...), 0o600))
}
