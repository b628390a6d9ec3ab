// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

// rig is a signer on a real socket, whose key may be changed.
type rig struct {
	uri  string
	open atomic.Pointer[func() (crypto.Signer, error)]
}

func serve(t *testing.T, key crypto.Signer) *rig {
	t.Helper()
	r := &rig{uri: "unix:" + filepath.Join(t.TempDir(), "s")}
	r.have(key, nil)
	ln, err := net.Listen("unix", strings.TrimPrefix(r.uri, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, ln, func() (crypto.Signer, error) { return (*r.open.Load())() }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) have(key crypto.Signer, err error) {
	open := func() (crypto.Signer, error) { return key, err }
	r.open.Store(&open)
}

func p256(t *testing.T) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestAKeyOfASignerSignsCertificates(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"P-256": p256(t), "P-384": p384, "Ed25519": ed, "RSA": rsa2048} {
		t.Run(name, func(t *testing.T) {
			asked, err := Ask(t.Context(), serve(t, key).uri)
			if err != nil {
				t.Fatal(err)
			}
			block, rest := pem.Decode(asked.Reference())
			if len(rest) > 0 || strings.HasSuffix(block.Type, "PRIVATE KEY") {
				t.Errorf("reference: %q, and %d bytes more", block.Type, len(rest))
			}
			read, err := Parse(block)
			if err != nil {
				t.Fatal(err)
			}
			if read.String() != asked.String() || !read.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(key.Public()) {
				t.Errorf("the reference reads as %v with another key", read)
			}
			algorithms := []x509.SignatureAlgorithm{x509.UnknownSignatureAlgorithm}
			if name == "RSA" {
				algorithms = append(algorithms, x509.SHA384WithRSAPSS)
			}
			for _, algorithm := range algorithms {
				template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, SignatureAlgorithm: algorithm}
				der, err := x509.CreateCertificate(rand.Reader, template, template, read.Public(), read)
				if err != nil {
					t.Fatalf("%v: %v", algorithm, err)
				}
				cert, err := x509.ParseCertificate(der)
				if err != nil || cert.CheckSignatureFrom(cert) != nil {
					t.Errorf("%v: the certificate does not verify: %v", algorithm, err)
				}
			}
		})
	}
}

func TestASignerOfAnotherKeyIsNamed(t *testing.T) {
	r := serve(t, p256(t))
	key, err := Ask(t.Context(), r.uri)
	if err != nil {
		t.Fatal(err)
	}
	r.have(p256(t), nil)
	if err := key.Check(); !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), r.uri) {
		t.Errorf("another key: %v", err)
	}
}

// liar signs by another key than it says.
type liar struct{ crypto.Signer }

func (l liar) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	other, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, err
	}
	return other.Sign(random, digest, opts)
}

func TestASignatureThatDoesNotVerifyIsRefused(t *testing.T) {
	if _, err := Ask(t.Context(), serve(t, liar{p256(t)}).uri); !errors.Is(err, ErrOtherKey) || !strings.Contains(err.Error(), "does not verify") {
		t.Errorf("a wrong signature: %v", err)
	}
}

// A signer that began to lie is seen by whoever has it sign: a busy CA sends it no probe.
func TestASignerThatBeginsToSignWrongIsInTrouble(t *testing.T) {
	ed := func() crypto.Signer {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	rsa2048 := func() crypto.Signer {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	pss := &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto, Hash: crypto.SHA256}
	for name, tc := range map[string]struct {
		has, lies crypto.Signer
		opts      crypto.SignerOpts
	}{
		"ECDSA":   {p256(t), p256(t), crypto.SHA256},
		"RSA":     {rsa2048(), rsa2048(), crypto.SHA256},
		"RSA-PSS": {rsa2048(), rsa2048(), pss},
		"Ed25519": {ed(), ed(), crypto.Hash(0)},
	} {
		r := serve(t, tc.has)
		key, err := Ask(t.Context(), r.uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := key.Sign(nil, make([]byte, 32), tc.opts); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		signed := key.Counts().Signed
		r.have(wrong{tc.has, tc.lies}, nil)
		if _, err := key.Sign(nil, make([]byte, 32), tc.opts); !errors.Is(err, ErrOtherKey) || !errors.Is(key.Trouble(), ErrOtherKey) {
			t.Errorf("%s: a wrong signature: %v, trouble %v", name, err, key.Trouble())
		}
		if n := key.Counts(); n.Signed != signed || n.Wrong != 1 {
			t.Errorf("%s: counts %+v", name, n)
		}
	}
}

// wrong shows one key, and signs by another.
type wrong struct {
	crypto.Signer
	by crypto.Signer
}

func (w wrong) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return w.by.Sign(random, digest, opts)
}

func TestASignerThatIsAwayIsAskedAgain(t *testing.T) {
	r := serve(t, p256(t))
	key, err := Ask(t.Context(), r.uri)
	if err != nil {
		t.Fatal(err)
	}
	r.have(nil, errors.New("the token is locked"))
	askedAt := func(when time.Time) { key.mu.Lock(); defer key.mu.Unlock(); key.asked = when }
	askedAt(time.Now().Add(time.Hour)) // a moment ago, however slow this machine is
	if err := key.Watch(); err != nil {
		t.Errorf("it is asked at once after a signature: %v", err)
	}
	if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "the token is locked") {
		t.Errorf("no key: %v", err)
	}
	askedAt(time.Now().Add(time.Hour))
	r.have(p256(t), nil) // whoever asks now has the last answer: it is not asked
	if _, err := key.Sign(nil, make([]byte, 32), crypto.SHA256); !errors.Is(err, ErrAway) {
		t.Errorf("at once: %v", err)
	}
	if n := key.Counts(); n.Away != 1 || n.Wrong != 0 {
		t.Errorf("counts: %+v", n)
	}
	askedAt(time.Time{})
	if err := key.Watch(); !errors.Is(err, ErrOtherKey) {
		t.Errorf("later: %v", err)
	}
}

// A signer whose socket accepts, and that never answers.
func TestASignerThatHangsIsLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	spki, err := x509.MarshalPKIXPublicKey(p256(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := newKey("unix:"+path, spki)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	if err := key.Check(); !errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "no answer within 5s") {
		t.Errorf("a signer that hangs: %v", err)
	}
	if took := time.Since(begun); took < answerIn {
		t.Errorf("left after %v", took)
	}
	key.mu.Lock()
	if key.asked.Before(begun.Add(answerIn)) {
		t.Error("the pause until it is asked again began before it was left")
	}
	// While one asks it again, all others have its last answer at once.
	key.asked, key.asking = time.Time{}, 1
	key.mu.Unlock()
	if err := key.begin(); !errors.Is(err, ErrAway) {
		t.Errorf("a second one waits, too: %v", err)
	}
}

func TestTheSocketOfAnotherUserIsNotAsked(t *testing.T) {
	if os.Geteuid() != 0 {
		env.Need(t, env.Netns) // names the missing privilege, or fails where it is required
	}
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	// SO_PEERCRED of who connects is that of who listened: so listen as another user.
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	other := filepath.Join(t.TempDir(), "s")
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: other}); err != nil {
		t.Fatal(err)
	}
	listenAs(t, fd, 65534)
	if _, err := dial(t.Context(), other); err == nil || !strings.Contains(err.Error(), "the user 65534's") {
		t.Errorf("another user's socket: %v", err)
	}
	conn, err := dial(t.Context(), path)
	if err != nil {
		t.Fatalf("our own: %v", err)
	}
	conn.Close()
}

func TestURIsThatNameNoSignerAreRefused(t *testing.T) {
	for _, uri := range []string{"", "unix:", "unix:s", "unix:/a/../s", "pkcs11:token=a", "unix:/" + strings.Repeat("a", 103)} {
		if _, err := Ask(t.Context(), uri); err == nil || !strings.Contains(err.Error(), "want") && !strings.Contains(err.Error(), "at most") {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

func TestQuestionsAreBounded(t *testing.T) {
	for _, tc := range []struct {
		q    question
		want string
	}{
		{question{}, "message"},
		{question{Message: make([]byte, maxMessage+1)}, "message"},
		{question{Message: make([]byte, 20), Hash: "SHA-1"}, "hash"},
		{question{Message: make([]byte, 20), Hash: "SHA-256"}, "message"},
	} {
		if _, err := tc.q.options(); err == nil || !strings.HasPrefix(err.Error(), tc.want) {
			t.Errorf("%d bytes, hash %q: %v", len(tc.q.Message), tc.q.Hash, err)
		}
	}
	r := serve(t, p256(t))
	key, err := Ask(t.Context(), r.uri)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := key.Sign(nil, []byte("no digest"), crypto.Hash(0)); err == nil || errors.Is(err, ErrAway) || !strings.Contains(err.Error(), "digests alone") {
		t.Errorf("ECDSA without a digest: %v", err)
	}
}

// What cannot be signed is not put to the key: its error would be taken for trouble of its own.
func TestWhatAKeyCannotSignIsNotPutToIt(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsa2048, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		key  crypto.Signer
		opts crypto.SignerOpts
		want string
	}{
		"Ed25519 of a digest": {ed, crypto.SHA256, "hash: a key of the type ed25519.PublicKey signs whole messages alone"},
		"ECDSA with a salt":   {p256(t), &rsa.PSSOptions{SaltLength: 32, Hash: crypto.SHA256}, "salt: a key of the type *ecdsa.PublicKey has none"},
		"a long salt":         {rsa2048, &rsa.PSSOptions{SaltLength: 223, Hash: crypto.SHA256}, "salt: it has 223 bytes, want -1 to 222"},
		"a negative salt":     {rsa2048, &rsa.PSSOptions{SaltLength: -2, Hash: crypto.SHA256}, "salt: it has -2 bytes"},
	} {
		r := serve(t, tc.key)
		key, err := Ask(t.Context(), r.uri)
		if err != nil {
			t.Fatal(err)
		}
		var asked atomic.Bool
		r.have(told{tc.key, &asked}, nil)
		if _, err := key.Sign(nil, make([]byte, 32), tc.opts); err == nil || !strings.Contains(err.Error(), tc.want) || asked.Load() {
			t.Errorf("%s: %v, and the key was asked: %v", name, err, asked.Load())
		}
	}
}

// told is a key that notes that it was asked.
type told struct {
	crypto.Signer
	asked *atomic.Bool
}

func (k told) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.asked.Store(true)
	return k.Signer.Sign(random, digest, opts)
}
