// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var discard = slog.New(slog.NewTextHandler(io.Discard, nil))

// None of the clouds can be asked here: their URIs are read, and what they say is named.
func TestKeysAreNamedByURI(t *testing.T) {
	for _, uri := range []string{
		"pkcs11:token=culvert;object=issuer?pin-source=file:/etc/pin",
		"awskms:region=eu-central-1;key-id=1234abcd-12ab-34cd-56ef-1234567890ab",
		"cloudkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1",
		"azurekms:vault=v;name=k",
		"azurekms:vault=v;name=k?version=1&hsm=true",
		"cloudkms:resource=projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1;credentials-file=/etc/c",
		"pkcs11:slot-id=1;id=%01;module-path=/usr/lib/a.so;max-sessions=4",
		"softkms:path=/etc/key",
	} {
		if _, err := newKey(uri, discard); err != nil {
			t.Errorf("%s: %v", uri, err)
		}
	}
	for uri, want := range map[string]string{
		"":                              "-key is required",
		"/etc/key":                      "no URI",
		"yubikey:slot-id=9a":            `the scheme is "yubikey"`,
		"tpmkms:name=k":                 "want pkcs11, awskms, cloudkms, azurekms or softkms",
		"pkcs11:token=a?pin-value=1234": "pin-source=file:PATH",
		"pkcs11:token=a;pin-value=1234": "pin-source=file:PATH",
		"azurekms:vault=v;name=k;tenant-id=t;client-id=c;client-secret=1234": "is not taken from a URI of the scheme azurekms, want vault, name,",
		"azurekms:vault=v;name=k?client-secret=1234":                         `"client-secret" is not taken`,
		"awskms:key-id=k;secret-access-key=1234":                             `"secret-access-key" is not taken`,
		"pkcs11:token=a;object=b;sloot-id=1234":                              `"sloot-id" is not taken`,
		"yubikey:management-key=1234":                                        "want pkcs11, awskms",
	} {
		_, err := newKey(uri, discard)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "1234") {
			t.Errorf("%q: %v, want %q", uri, err, want)
		}
	}
}

func TestACloudWithoutCredentialsIsNamed(t *testing.T) {
	for name, value := range map[string]string{"GOOGLE_APPLICATION_CREDENTIALS": "/nonexistent/credentials.json"} {
		t.Setenv(name, value)
	}
	uri := "cloudkms:projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
	k, err := newKey(uri, discard)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.open(); err == nil || !strings.Contains(err.Error(), uri) || !strings.Contains(err.Error(), "/nonexistent/credentials.json") {
		t.Errorf("no credentials: %v", err)
	}
}

func TestAPINThatOthersMayReadIsRefused(t *testing.T) {
	pin := filepath.Join(t.TempDir(), "pin")
	for _, tc := range []struct {
		mode os.FileMode
		want string
	}{{0o644, "others may read it"}, {0o600, ""}} {
		if err := os.WriteFile(pin, []byte("1234\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(pin, tc.mode); err != nil {
			t.Fatal(err)
		}
		k, err := newKey("pkcs11:token=a?pin-source=file:"+pin, discard)
		if err != nil {
			t.Fatal(err)
		}
		text, err := k.pin()
		if tc.want == "" && (err != nil || text != "1234") || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("mode %v: %q, %v", tc.mode, text, err)
		}
	}
}

// An Ed25519 key cannot be compared, and one that fails late must not close its successor.
func TestALostKeyIsOpenedAnewAndOnlyThatOneIsClosed(t *testing.T) {
	_, made, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey("softkms:path="+keyFile(t, made), discard)
	if err != nil {
		t.Fatal(err)
	}
	former, err := k.open()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one is late: another key is open
		if _, err := former.Sign(rand.Reader, make([]byte, 32), crypto.SHA256); err == nil {
			t.Fatal("a digest is signed")
		}
		if k.signer != nil && k.opened != 2 {
			t.Fatal("what does not sign stays open")
		}
		if _, err := k.open(); err != nil {
			t.Fatal(err)
		}
	}
	if k.opened != 2 {
		t.Errorf("opened %d times, want 2", k.opened)
	}
}

func keyFile(t *testing.T, key crypto.Signer) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKeyInAFileSigns(t *testing.T) {
	made, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := newKey("softkms:path="+keyFile(t, made), discard)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := k.open()
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	signature, err := signer.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil || !ecdsa.VerifyASN1(&made.PublicKey, digest, signature) {
		t.Errorf("signed: %v", err)
	}
	k.close()
	if _, err := k.open(); err != nil {
		t.Errorf("opened again: %v", err)
	}
}
