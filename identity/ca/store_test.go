// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"maps"
	"strings"
	"sync"
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

// reissued are the files with another issuer under the same root.
func reissued(t testing.TB, files Files, change func(*x509.Certificate)) Files {
	t.Helper()
	root, rootKey, err := files.pair(RootFile, RootKeyFile)
	if err != nil {
		t.Fatal(err)
	}
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

// memory is a Store in which others may be faster.
type memory struct {
	mu     sync.Mutex
	files  Files
	faster Files // is stored just before the first Create
}

func (m *memory) String() string { return "memory" }

func (m *memory) Read(context.Context) (Files, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.files, nil
}

func (m *memory) Create(_ context.Context, files Files) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.faster != nil {
		m.files = m.faster
	}
	if m.files != nil {
		return ErrExists
	}
	m.files = files
	return nil
}

func TestWhoeverIsSlowerTakesTheCAOfWhoeverWasFirst(t *testing.T) {
	store := &memory{faster: made(t)}
	c := newCA(t)
	if err := c.Load(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	if string(encodeCert(c.Roots()[0])) != string(store.faster[RootFile]) {
		t.Error("another root")
	}
}

func TestADirectoryThatHasACAIsNotGivenAnother(t *testing.T) {
	dir := newDir(t)
	before := contents(t, dir)
	if err := directory(dir).Create(t.Context(), made(t)); !errors.Is(err, ErrExists) {
		t.Errorf("%v, want %v", err, ErrExists)
	}
	if contents(t, dir) != before {
		t.Error("it was changed")
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
		"root.pem is another root":  made(t),
		"issuer.key is missing":     without,
		"issuer.pem: certificate a": expired, // uthority has expired
		"root.pem is missing":       nil,
	} {
		if changed, err := c.Take(files); err == nil || changed || !strings.Contains(err.Error(), want) {
			t.Errorf("changed %v, %v, want %q", changed, err, want)
		}
		if !c.Issuer().Equal(issuer) {
			t.Fatal("another issuer")
		}
	}
}
