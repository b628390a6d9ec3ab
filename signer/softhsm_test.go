// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.step.sm/crypto/kms"
	"go.step.sm/crypto/kms/apiv1"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/signing"
)

const module = "/usr/lib/softhsm/libsofthsm2.so"

// TestMain is culvert-signer itself, if a test starts it.
func TestMain(m *testing.M) {
	if os.Getenv("CULVERT_SIGNER") == "yes" {
		main()
		return
	}
	os.Exit(m.Run())
}

// token is one of SoftHSM's, with keys of the names root and issuer.
type token struct {
	*testing.T
	dir string
}

func newToken(t *testing.T) token {
	t.Helper()
	k := token{t, t.TempDir()}
	for _, path := range []string{k.path("tokens"), k.path("run")} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	k.write("softhsm2.conf", "directories.tokendir = "+k.path("tokens")+"\nobjectstore.backend = file\nlog.level = ERROR\n")
	k.write("pin", "1234\n")
	t.Setenv("SOFTHSM2_CONF", k.path("softhsm2.conf"))
	out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "culvert", "--pin", "1234", "--so-pin", "5678").CombinedOutput()
	if err != nil {
		t.Fatalf("softhsm2-util, of the package softhsm2: %v\n%s", err, out)
	}
	manager, err := kms.New(t.Context(), apiv1.Options{URI: k.uri(""), Pin: "1234"})
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"root", "issuer", "other"} {
		_, err := manager.CreateKey(&apiv1.CreateKeyRequest{Name: k.uri(fmt.Sprintf(";id=%02x;object=%s", i+1, name)), SignatureAlgorithm: apiv1.ECDSAWithSHA256})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := manager.Close(); err != nil {
		t.Fatal(err)
	}
	return k
}

func (k token) path(name string) string { return filepath.Join(k.dir, name) }

func (k token) write(name, text string) {
	k.Helper()
	if err := os.WriteFile(k.path(name), []byte(text), 0o600); err != nil {
		k.Fatal(err)
	}
}

func (k token) uri(more string) string {
	return "pkcs11:module-path=" + module + ";token=culvert" + more + "?pin-source=file:" + k.path("pin")
}

// signer is culvert-signer, as a process of its own.
type signer struct {
	uri string
	cmd *exec.Cmd
	log *bytes.Buffer
}

// serve starts culvert-signer with a key of the token, at the socket of a name.
func (k token) serve(key, name string) *signer {
	k.Helper()
	s := &signer{uri: "unix:" + k.path("run/"+name), log: new(bytes.Buffer)}
	s.cmd = exec.Command(os.Args[0], "-key", k.uri(";object="+key), "-socket", k.path("run/"+name))
	s.cmd.Env = append(os.Environ(), "CULVERT_SIGNER=yes")
	s.cmd.Stderr = s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		s.stop()
		if k.Failed() {
			k.Logf("culvert-signer of %s:\n%s", key, s.log)
		}
		if strings.Contains(s.log.String(), "1234") {
			k.Error("the PIN stands in the log")
		}
	})
	return s
}

func (s *signer) stop() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

// key asks until the signer signs.
func (k token) key(s *signer) (key *signing.Key) {
	k.Helper()
	var err error
	k.await("the signer signs", func() bool {
		key, err = signing.Ask(k.Context(), s.uri)
		return err == nil
	})
	return key
}

func (k token) await(what string, done func() bool) {
	k.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			k.Fatalf("not within two minutes: %s", what)
		}
	}
}

// The keys of root and issuer never leave the token.
func TestACASignsByTheKeysOfAPKCS11Token(t *testing.T) {
	k := newToken(t)
	root, issuer := k.serve("root", "root"), k.serve("issuer", "issuer")
	opts := ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local"), RootKey: k.key(root), IssuerKey: k.key(issuer), MustExist: true}
	files, err := ca.Make(opts)
	if err != nil {
		t.Fatal(err)
	}
	store := &ca.Memory{}
	store.Set(files)
	made, err := ca.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	keeper := ca.NewKeeper(ca.KeeperOptions{CA: made, Store: store})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	defer func() { stop(); <-done }()
	k.await("the CA is open", func() bool { return keeper.Waiting() == nil })
	issue := func() error {
		_, err := made.Certify(opts.IssuerKey.Public(), spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"), time.Hour)
		return err
	}
	if err := issue(); err != nil {
		t.Fatal(err)
	}
	next, err := ca.NextIssuer(files, opts.RootKey, opts)
	if err != nil {
		t.Fatal(err)
	}
	store.Set(merged(files, next))
	k.await("the next issuer signs", func() bool { return made.Issuer().Equal(ca.IssuerOf(next)) })

	// It is killed, and its token is taken away.
	issuer.stop()
	if err := issue(); !errors.Is(err, signing.ErrAway) {
		t.Errorf("without the signer: %v", err)
	}
	k.await("the loss is told", func() bool { return keeper.Events()[ca.SignerLost] == 1 })
	if err := os.Rename(k.path("tokens"), k.path("away")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(k.path("tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	k.serve("issuer", "issuer")
	k.await("the CA hears that there is no token", func() bool {
		err := made.Signer().Watch()
		return err != nil && strings.Contains(err.Error(), "pkcs11:") && strings.Contains(err.Error(), "token")
	})
	if err := os.RemoveAll(k.path("tokens")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(k.path("away"), k.path("tokens")); err != nil {
		t.Fatal(err)
	}
	k.await("the token is found again", func() bool { return keeper.Events()[ca.SignerBack] == 1 })
	if err := issue(); err != nil {
		t.Error(err)
	}
}

func merged(files, next ca.Files) ca.Files {
	all := ca.Files{}
	for _, some := range []ca.Files{files, next} {
		for name, text := range some {
			all[name] = text
		}
	}
	return all
}

func TestAWrongPINAndAnotherKeyAreNamed(t *testing.T) {
	k := newToken(t)
	first := k.serve("issuer", "issuer")
	key := k.key(first)
	first.stop()
	second := k.serve("other", "issuer")
	k.key(second)
	if err := key.Check(); !errors.Is(err, signing.ErrOtherKey) {
		t.Errorf("another key at the same socket: %v", err)
	}
	second.stop()
	k.write("pin", "9999\n")
	k.serve("issuer", "issuer")
	k.await("the wrong PIN is told", func() bool {
		_, err := signing.Ask(t.Context(), key.String())
		return errors.Is(err, signing.ErrAway) && strings.Contains(err.Error(), "CKR_PIN_INCORRECT")
	})
	k.write("pin", "1234\n")
	k.await("the right PIN opens it", func() bool { return key.Check() == nil })
}

// A token locks itself after a few wrong PINs, and some tokens for good.
func TestAWrongPINIsTriedOnce(t *testing.T) {
	k := newToken(t)
	key, err := newKey(k.uri(";object=issuer"), discard)
	if err != nil {
		t.Fatal(err)
	}
	defer key.close()
	open := func(want string) {
		t.Helper()
		key.tried = time.Time{}
		if _, err := key.open(); err == nil && want != "" || err != nil && (want == "" || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	k.write("pin", "9999\n")
	open("CKR_PIN_INCORRECT: it is not tried again until")
	away := func(from, to string) {
		t.Helper()
		if err := os.RemoveAll(k.path(to)); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(k.path(from), k.path(to)); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(k.path("tokens"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	away("tokens", "away") // whoever asks now hears that there is no token
	open("CKR_PIN_INCORRECT")
	k.write("pin", "\n") // half written
	open("is empty")
	k.write("pin", "1234\n")
	open("could not find")
	away("away", "tokens")
	open("")
}

func TestAKeyThatTheTokenLacksIsNamed(t *testing.T) {
	k := newToken(t)
	s := k.serve("nobody", "s")
	k.await("the key is named", func() bool {
		_, err := signing.Ask(t.Context(), s.uri)
		return errors.Is(err, signing.ErrAway) && strings.Contains(err.Error(), "object=nobody")
	})
}
