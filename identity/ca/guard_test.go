// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// What others may replace is no CA to start with; nor to follow, once it is open.
func TestADirectoryInWhichOthersMayReplaceAFileIsRefused(t *testing.T) {
	for _, name := range []string{IssuerKeyFile, RootKeyFile, RootFile, IssuerFile} {
		dir := newDir(t)
		if err := os.Chmod(filepath.Join(dir, name), 0o666); err != nil {
			t.Fatal(err)
		}
		refused(t, dir, Options{TrustDomain: td}, name+" has the mode 0666", "everybody on this machine can replace")
	}
}

func TestWhatIsWrongWithACAInForceIsLoggedOnce(t *testing.T) {
	dir := newDir(t)
	for path, mode := range map[string]os.FileMode{dir: 0o777, filepath.Join(dir, RootKeyFile): 0o644} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.ReadFile(filepath.Join(dir, RootFile))
	if err != nil {
		t.Fatal(err)
	}
	replace(t, dir, RootFile, append(root, root...))
	var log bytes.Buffer
	k := NewKeeper(KeeperOptions{CA: newCA(t), Store: Directory{Path: dir}, Log: slog.New(slog.NewJSONHandler(&log, nil))})
	if err := k.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := k.look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{openDirectory, readableKey, rootTwice} {
		if n := strings.Count(log.String(), `"code":"`+want+`"`); n != 1 {
			t.Errorf("%s is logged %d times, want once: %s", want, n, log.String())
		}
	}
}

// A root key under a passphrase renews the issuer as one in clear does.
func TestAnEncryptedRootKeyRenewsTheIssuer(t *testing.T) {
	files := made(t)
	_, key := pair(t, files, RootFile, RootKeyFile)
	files[RootKeyFile] = encrypted(t, key, "sesame")
	k := newKit(t)
	k.passphrase("sesame")
	issuer, _ := pair(t, files, IssuerFile, IssuerKeyFile)
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(time.Until(middle(issuer))) // bubble time
		if _, state := files.signer(k.opts); state != RenewalAutomatic {
			t.Errorf("%s with the passphrase", state)
		}
		if _, state := files.signer(Options{}); state != RenewalOffline {
			t.Errorf("%s without", state)
		}
	})
}

// A004-12: an issuer that Culvert makes lives for at least six leaves.
func TestAnIssuerTooShortForItsLeavesIsNotMade(t *testing.T) {
	for life, ok := range map[time.Duration]bool{6 * time.Hour: true, 6*time.Hour - time.Second: false} {
		if _, err := New(Options{TrustDomain: td, IssuerTTL: life, LeafTTL: time.Hour}); (err == nil) != ok {
			t.Errorf("issuer of %v for leaves of an hour: %v", life, err)
		}
	}
}
