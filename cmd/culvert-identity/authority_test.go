// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/youmark/pkcs8"

	"github.com/culvert-mesh/culvert/identity/ca"
)

// An operator's keys are encrypted: -passphrase-file opens them, and without it the
// start says which flag does.
func TestAnEncryptedCAIsOpenedByThePassphraseFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	open := func(args ...string) (string, error) {
		cfg, err := parseOnly(append([]string{"-dir", dir, "-workloads", "/w", "-jwks", "/j"}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		cfg.log = slog.New(slog.DiscardHandler)
		a, err := cfg.authority(t.Context())
		if err != nil {
			return "", err
		}
		return a.ca.Issuer().SerialNumber.String(), nil
	}
	first, err := open()
	if err != nil {
		t.Fatal(err)
	}
	passphrase := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(passphrase, []byte("sesame\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ca.IssuerKeyFile, ca.RootKeyFile} {
		encrypt(t, filepath.Join(dir, name), "sesame")
	}
	if _, err := open(); err == nil || !strings.Contains(err.Error(), "issuer.key is encrypted, and no file with its passphrase is named") {
		t.Errorf("without: %v", err)
	}
	if again, err := open("-passphrase-file", passphrase); err != nil || again != first {
		t.Errorf("the issuer %s, %v; want %s", again, err, first)
	}
}

func encrypt(t *testing.T, path, passphrase string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := pkcs8.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := pkcs8.MarshalPrivateKey(key, []byte(passphrase), pkcs8.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A002-12: the knobs of identity come back in the certificates, as they were set by flags.
func TestTheKnobsOfIdentityComeBackInCertificates(t *testing.T) {
	cfg, err := parseOnly("-dir", filepath.Join(t.TempDir(), "ca"), "-workloads", "/w", "-jwks", "/j",
		"-trust-domain", "example.org", "-ttl", "24h", "-clock-skew", "20s")
	if err != nil {
		t.Fatal(err)
	}
	cfg.log = slog.New(slog.DiscardHandler)
	a, err := cfg.authority(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	sign := func(id string) (*x509.Certificate, error) {
		chain, err := a.ca.Certify(key.Public(), spiffeid.RequireFromString(id), cfg.ttl)
		if err != nil {
			return nil, err
		}
		return chain[0], nil
	}
	leaf, err := sign("spiffe://example.org/ns/shop/sa/web")
	if err != nil {
		t.Fatal(err)
	}
	if skew := before.Sub(leaf.NotBefore); skew < 20*time.Second || cfg.clockSkew != 20*time.Second {
		t.Errorf("it is backdated by %v, for a clock skew of %v", skew, cfg.clockSkew)
	}
	if life := leaf.NotAfter.Sub(before); life < 24*time.Hour-time.Minute || life > 24*time.Hour+time.Minute {
		t.Errorf("it lasts %v", life)
	}
	if id := leaf.URIs[0].String(); id != "spiffe://example.org/ns/shop/sa/web" {
		t.Errorf("it is of %s", id)
	}
	if _, err := sign("spiffe://cluster.local/ns/shop/sa/web"); err == nil {
		t.Error("the default trust domain is signed for")
	}
}
