// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
)

// made are the files of a new CA.
func made(t testing.TB) Files {
	t.Helper()
	files, err := generate(Options{TrustDomain: td}.withDefaults())
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// pair reads a certificate and a key, each alone in its file.
func pair(t testing.TB, files Files, certName, keyName string) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	e := &examination{files: files}
	certs, key := e.certificates(certName, maxChain, maxCerts), e.privateKey(keyName)
	if len(e.defects) > 0 {
		t.Fatal(e.defects)
	}
	return certs[0].Certificate, key
}

// reissued are the files with another issuer under the same root.
func reissued(t testing.TB, files Files, change func(*x509.Certificate)) Files {
	t.Helper()
	root, rootKey := pair(t, files, RootFile, RootKeyFile)
	template := authorityTemplate("issuer", td, time.Hour, 0)
	if change != nil {
		change(template)
	}
	key := newKey(t, elliptic.P256())
	issuer, err := create(template, root, key.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	other := maps.Clone(files)
	other[IssuerFile] = encodeCert(issuer)
	if other[IssuerKeyFile], err = encodeKey(key); err != nil {
		t.Fatal(err)
	}
	return other
}

func newCA(t testing.TB) *CA {
	t.Helper()
	c, err := New(Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// faster is a store in which another process stores a CA just before the first Create.
type faster struct {
	Memory
	first Files
}

func (f *faster) Create(ctx context.Context, files Files) error {
	f.Set(f.first)
	return f.Memory.Create(ctx, files)
}

func TestWhoeverIsSlowerTakesTheCAOfWhoeverWasFirst(t *testing.T) {
	store := &faster{first: made(t)}
	c := newCA(t)
	if err := c.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if string(encodeCert(c.Roots()[0])) != string(store.first[RootFile]) {
		t.Error("another root")
	}
}

func TestACAThatIsNotOpenSignsNothing(t *testing.T) {
	c := newCA(t)
	if _, err := c.Sign(newCSR(t, newKey(t, elliptic.P256()), &x509.CertificateRequest{}), web, time.Hour); !errors.Is(err, ErrNotOpen) {
		t.Errorf("Sign: %v", err)
	}
	if _, err := c.ServerCertificate("ca")(nil); !errors.Is(err, ErrNotOpen) {
		t.Errorf("ServerCertificate: %v", err)
	}
	if c.Roots() != nil || c.Issuer() != nil || !c.NotAfter().IsZero() {
		t.Error("it has a root or an issuer")
	}
}

func TestAnotherIssuerOfTheSameRootIsTakenLive(t *testing.T) {
	files := made(t)
	c := newCA(t)
	serving := c.ServerCertificate("ca")
	take := func(files Files, want bool) {
		t.Helper()
		if changed, err := c.Take(files); err != nil || changed != want {
			t.Fatalf("changed %v, %v", changed, err)
		}
	}
	take(files, true)
	first, err := serving(nil)
	if err != nil {
		t.Fatal(err)
	}
	take(files, false)
	next := reissued(t, files, nil)
	take(next, true)
	if string(encodeCert(c.Issuer())) != string(next[IssuerFile]) {
		t.Fatal("the former issuer signs")
	}
	leaf := sign(t, c, newCSR(t, newKey(t, elliptic.P256()), &x509.CertificateRequest{}), time.Hour)
	if err := leaf.CheckSignatureFrom(c.Issuer()); err != nil {
		t.Error(err)
	}
	second, err := serving(nil)
	if err != nil {
		t.Fatal(err)
	}
	if string(second.Certificate[1]) != string(c.Issuer().Raw) || string(first.Certificate[1]) == string(second.Certificate[1]) {
		t.Error("the CA's own certificate is of the former issuer")
	}
}

func TestWhatIsRefusedLeavesTheIssuerInForce(t *testing.T) {
	files := made(t)
	c := newCA(t)
	if _, err := c.Take(files); err != nil {
		t.Fatal(err)
	}
	issuer := c.Issuer()
	without := maps.Clone(files)
	delete(without, IssuerKeyFile)
	expired := reissued(t, files, func(cert *x509.Certificate) { cert.NotAfter = time.Now().Add(-time.Second) })
	for want, files := range map[string]Files{
		"issuer.pem is under a root that nodes do not trust yet": made(t),
		"issuer.key is missing":                                  without,
		"issuer.pem has expired":                                 expired,
		"root.pem is missing":                                    nil,
	} {
		if changed, err := c.Take(files); err == nil || changed || !strings.Contains(err.Error(), want) {
			t.Errorf("changed %v, %v, want %q", changed, err, want)
		}
		if !c.Issuer().Equal(issuer) {
			t.Fatal("another issuer")
		}
	}
}

// A Keeper looks, and then watches: what is set in between is told to it as well.
func TestAWatchOfMemoryTellsWhatWasSetBefore(t *testing.T) {
	t.Parallel()
	store := &Memory{}
	store.Set(Files{})
	told := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		store.Watch(ctx, func() { told <- struct{}{} })
	}()
	select {
	case <-told:
	case <-time.After(30 * time.Second):
		t.Error("nobody is told")
	}
	cancel()
	<-ended
}
