// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing/signingtest"
)

var meshDomain = spiffeid.RequireTrustDomainFromString("cluster.local")

// onDir runs a command line on the CA of a directory.
func onDir(t *testing.T, want int, dir string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	code := Run(context.Background(), Process{
		Args: append([]string{"culvert"}, append(args, "--ca-dir", dir)...), Stdout: &out, Stderr: &out,
		Getenv: func(string) string { return "" }, Now: time.Now,
	})
	if code != want {
		t.Fatalf("culvert %s: exit code %d, want %d\n%s", strings.Join(args, " "), code, want, &out)
	}
	return out.String()
}

// The whole life of a CA whose keys are in no file.
func TestACAOfSignersIsMadeRenewedAndReKeyed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	root, issuer := signingtest.Serve(t, signingtest.P256(t)), signingtest.Serve(t, signingtest.P256(t))
	onDir(t, 0, dir, "ca", "init", "--root-signer", root.URI, "--issuer-signer", issuer.URI)
	opened, err := ca.Open(dir, ca.Options{TrustDomain: meshDomain, MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	former := opened.Issuer()
	shown := onDir(t, 0, dir, "ca", "show")
	if !strings.Contains(shown, root.URI) || !strings.Contains(shown, issuer.URI) {
		t.Errorf("show names no signer:\n%s", shown)
	}
	if text := onDir(t, 2, dir, "ca", "taint", former.SerialNumber.Text(16)); !strings.Contains(text, "--issuer-signer") {
		t.Errorf("a key that may be in other hands would sign on:\n%s", text)
	}
	onDir(t, 0, dir, "ca", "renew-issuer")
	onDir(t, 0, dir, "ca", "renew-root", "--root-ttl", "20y")
	// Without the reference it must be given.
	if err := os.Remove(filepath.Join(dir, ca.RootKeyFile)); err != nil {
		t.Fatal(err)
	}
	onDir(t, 2, dir, "ca", "renew-issuer")
	onDir(t, 0, dir, "ca", "renew-issuer", "--root-key", root.URI)
	opened, err = ca.Open(dir, ca.Options{TrustDomain: meshDomain, MustExist: true})
	if err != nil {
		t.Fatal(err)
	}
	if opened.Issuer().Equal(former) || len(opened.Roots()) != 2 {
		t.Errorf("the issuer is serial %x, of %d roots", opened.Issuer().SerialNumber, len(opened.Roots()))
	}
	if text := onDir(t, 2, dir, "ca", "rotate-root"); !strings.Contains(text, "--root-signer") {
		t.Errorf("the next key would lie in a file:\n%s", text)
	}
	other, next := signingtest.Serve(t, signingtest.P256(t)), signingtest.Serve(t, signingtest.P256(t))
	onDir(t, 0, dir, "ca", "rotate-root", "--root-signer", other.URI, "--issuer-signer", next.URI)
	plan, err := os.ReadFile(filepath.Join(dir, ca.RekeyFile))
	if err != nil || !bytes.Contains(plan, []byte(next.URI)) || bytes.Contains(plan, []byte("PRIVATE KEY")) {
		t.Errorf("the plan of the re-key (%v):\n%s", err, plan)
	}
}

func TestASignerThatCannotSignMakesNoCA(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	signer := signingtest.Serve(t, signingtest.P256(t))
	signer.Has(nil, errors.New("the token is locked"))
	text := onDir(t, 2, dir, "ca", "init", "--issuer-signer", signer.URI)
	if !strings.Contains(text, "--issuer-signer: "+signer.URI) || !strings.Contains(text, "the token is locked") {
		t.Errorf("a locked token:\n%s", text)
	}
	signer.Has(signingtest.P256(t), nil)
	if text := onDir(t, 2, dir, "ca", "init", "--root-signer", signer.URI, "--issuer-signer", signer.URI); !strings.Contains(text, "same key") {
		t.Errorf("one signer for both:\n%s", text)
	}
	if text := onDir(t, 2, dir, "ca", "init", "--key-kind", "mldsa65", "--root-signer", signer.URI); !strings.Contains(text, "--key-kind mldsa65") {
		t.Errorf("a kind that no signer has:\n%s", text)
	}
	if text := onDir(t, 2, dir, "ca", "init", "--root-signer", "pkcs11:token=a"); !strings.Contains(text, "want unix:PATH") {
		t.Errorf("another scheme:\n%s", text)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("a directory was made")
	}
}

func TestTheReferenceToASignersKeyIsPrinted(t *testing.T) {
	signer := signingtest.Serve(t, signingtest.P256(t))
	text := onDir(t, 0, "unused", "ca", "signer", signer.URI)
	if text != string(signer.Key(t).Reference()) {
		t.Errorf("printed:\n%s", text)
	}
}
