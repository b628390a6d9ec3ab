// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

func newDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	if _, err := Open(dir, Options{TrustDomain: td}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// contents is what an Open that is refused must not change.
func contents(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(entry.Name() + "\n" + string(text))
	}
	return all.String()
}

func refused(t *testing.T, dir string, opts Options, want ...string) {
	t.Helper()
	before := contents(t, dir)
	_, err := Open(dir, opts)
	if err == nil {
		t.Fatal("opened")
	}
	for _, text := range want {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("%q does not say %q", err, text)
		}
	}
	if contents(t, dir) != before {
		t.Error("the refused directory was changed")
	}
}

func TestEmptyDirectoryGetsANewCA(t *testing.T) {
	dir := newDir(t)
	for name, mode := range map[string]os.FileMode{RootFile: 0o644, IssuerFile: 0o644, RootKeyFile: 0o600, IssuerKeyFile: 0o600} {
		stat, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if stat.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v", name, stat.Mode(), mode)
		}
	}
	entries, _ := os.ReadDir(dir)
	if len(entries) != len(fileNames)+1 { // and the record
		t.Errorf("the directory holds %v", entries)
	}
	c, err := Open(dir, Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	root, issuer := c.Roots()[0], c.Issuer()
	day := 24 * time.Hour
	if d := time.Until(root.NotAfter); d < 3649*day || d > 3651*day {
		t.Errorf("the root is valid for %v", d)
	}
	if d := time.Until(issuer.NotAfter); d < 364*day || d > 366*day {
		t.Errorf("the issuer is valid for %v", d)
	}
	if !issuer.MaxPathLenZero || root.MaxPathLen != 1 {
		t.Error("path lengths")
	}
}

func TestExistingCAIsKept(t *testing.T) {
	dir := newDir(t)
	before := contents(t, dir)
	first, err := Open(dir, Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	second, err := Open(dir, Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	if !first.Roots()[0].Equal(second.Roots()[0]) || contents(t, dir) != before {
		t.Error("another CA")
	}
}

func TestTwoFirstStartsAtOnceMakeOneCA(t *testing.T) {
	dir := t.TempDir()
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		roots = make(map[string]bool)
	)
	for range 8 {
		wg.Go(func() {
			c, err := Open(dir, Options{TrustDomain: td})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			roots[string(c.Roots()[0].Raw)] = true
		})
	}
	wg.Wait()
	if len(roots) != 1 {
		t.Errorf("%d roots, want one", len(roots))
	}
}

func TestPartOfACAIsRefusedNamingWhatIsMissing(t *testing.T) {
	for _, name := range []string{RootFile, IssuerFile, IssuerKeyFile} {
		dir := newDir(t)
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, Options{TrustDomain: td}, "missing "+name+":")
	}
	dir := newDir(t)
	for _, name := range fileNames[1:] {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	refused(t, dir, Options{TrustDomain: td}, "missing issuer.pem, issuer.key:")
}

func TestDirectoryOfSomethingElseIsRefused(t *testing.T) {
	for _, name := range []string{"tls.txt", "..data", BundleFile} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, Options{TrustDomain: td}, name)
	}
	crowd := t.TempDir()
	for i, want := range []string{"(0)", "(0, 1)", "(0, 1, 2)", "(0, 1, 2, 3)", "(0, 1, 2, 3, 4)", "(0, 1, 2, 3, 4 and 1 more)", "(0, 1, 2, 3, 4 and 2 more)"} {
		if err := os.WriteFile(filepath.Join(crowd, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		refused(t, crowd, Options{TrustDomain: td}, want)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{TrustDomain: td}); err != nil {
		t.Errorf("a fresh file system: %v", err)
	}
}

// A file in the way of a staged one fails the write half way, for root too.
func TestFailedWriteLeavesNoPartOfACA(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, stagedName(IssuerKeyFile)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := (Directory{Path: dir}).write(made(t)); err == nil {
		t.Fatal("written")
	}
	for _, name := range fileNames {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s exists: %v", name, err)
		}
	}
}

func TestDirectoryThatCannotBeWrittenIsAnError(t *testing.T) {
	if _, err := Open("/proc/culvert-test", Options{TrustDomain: td}); err == nil {
		t.Error("opened")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file, Options{TrustDomain: td}); err == nil {
		t.Error("opened a file")
	}
	if _, err := Open("/proc/self", Options{TrustDomain: td}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("opened a directory of others: %v", err)
	}
}

func TestFilesThatDoNotFitTogetherAreRefused(t *testing.T) {
	swap := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(newDir(t), name))
			if err != nil {
				t.Fatal(err)
			}
			replace(t, dir, name, text)
		}
	}
	write := func(name, text string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { replace(t, dir, name, []byte(text)) }
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, dir string)
		want   string
	}{
		{"issuer key of another CA", swap(IssuerKeyFile), "issuer.key does not belong to issuer.pem"},
		{"root key of another CA", swap(RootKeyFile), "root.key does not belong to root.pem"},
		{"issuer of another CA", swap(IssuerFile), "issuer.key does not belong to issuer.pem"},
		{"root of another CA", swap(RootFile), "root.key does not belong to root.pem"},
		{"issuer and key of another CA", func(t *testing.T, dir string) {
			other := newDir(t)
			for _, name := range []string{IssuerFile, IssuerKeyFile} {
				text, err := os.ReadFile(filepath.Join(other, name))
				if err != nil {
					t.Fatal(err)
				}
				replace(t, dir, name, text)
			}
		}, "not signed by root.pem"},
		{"empty file", write(IssuerFile, ""), "issuer.pem is empty"},
		{"not PEM", write(RootKeyFile, "secret"), "root.key holds no PEM"},
		{"huge", write(RootFile, strings.Repeat("x", maxBundle+1)), "root.pem is longer"},
		{"broken certificate", write(RootFile, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "root.pem"},
		{"broken key", write(IssuerKeyFile, "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), "issuer.key"},
		{"key in place of certificate", func(t *testing.T, dir string) {
			text, err := os.ReadFile(filepath.Join(dir, RootKeyFile))
			if err != nil {
				t.Fatal(err)
			}
			replace(t, dir, RootFile, text)
		}, `root.pem holds a "PRIVATE KEY" beside certificates`},
		{"leaf as issuer", func(t *testing.T, dir string) {
			c, err := Open(dir, Options{TrustDomain: td})
			if err != nil {
				t.Fatal(err)
			}
			key := newKey(t, elliptic.P256())
			leaf := sign(t, c, newCSR(t, key, &x509.CertificateRequest{}), time.Hour)
			encoded, err := encodeKey(key)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, dir, IssuerFile, encodeCert(leaf))
			replace(t, dir, IssuerKeyFile, encoded)
		}, "issuer.pem may not sign others"},
		{"issuer whose key no node checks", func(t *testing.T, dir string) {
			files, err := (Directory{Path: dir}).Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			root, rootKey := pair(t, files, RootFile, RootKeyFile)
			key := newKey(t, elliptic.P521())
			issuer, err := create(authorityTemplate("issuer", td, time.Hour, 0), root, key.Public(), rootKey)
			if err != nil {
				t.Fatal(err)
			}
			encoded, err := encodeKey(key)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, dir, IssuerFile, encodeCert(issuer))
			replace(t, dir, IssuerKeyFile, encoded)
		}, "issuer.pem: its key is of the curve P-521"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := newDir(t)
			test.damage(t, dir)
			refused(t, dir, Options{TrustDomain: td}, test.want)
		})
	}
}

func replace(t *testing.T, dir, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherTrustDomainIsRefused(t *testing.T) {
	dir := newDir(t)
	refused(t, dir, Options{TrustDomain: spiffeid.RequireTrustDomainFromString("example.org")}, "root.pem", "spiffe://cluster.local", "example.org")
	if _, err := Open(t.TempDir(), Options{}); err == nil {
		t.Error("opened without a trust domain")
	}
}

func TestExpiredCAIsRefusedSayingWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		opts := Options{TrustDomain: td, RootTTL: 2 * time.Hour, IssuerTTL: time.Hour}
		if _, err := Open(dir, opts); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour) // bubble time
		refused(t, dir, opts, "issuer.pem", "expired", "2000-01-01T01:00:00Z")
		if _, err := Open(dir, opts); !errors.Is(err, ErrExpired) {
			t.Errorf("%v is not %v", err, ErrExpired)
		}
		time.Sleep(time.Hour)
		refused(t, dir, opts, "root.pem", "expired")
	})
}

func TestCAFromTheFutureIsRefused(t *testing.T) {
	dir := newDir(t) // made today
	synctest.Test(t, func(t *testing.T) {
		refused(t, dir, Options{TrustDomain: td}, "not valid before") // in 2000
	})
}

func TestIssuerDoesNotOutliveTheRoot(t *testing.T) {
	c := openCA(t, Options{RootTTL: time.Hour})
	if c.Issuer().NotAfter.After(c.Roots()[0].NotAfter) {
		t.Error("it does")
	}
}

func TestKeysOfTheOldPEMTypeAreRead(t *testing.T) {
	dir := newDir(t)
	text, err := os.ReadFile(filepath.Join(dir, IssuerKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, dir, IssuerKeyFile, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	if _, err := Open(dir, Options{TrustDomain: td}); err != nil {
		t.Error(err)
	}
}
