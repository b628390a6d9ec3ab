// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/signing"
	"github.com/culvert-mesh/culvert/identity/signing/signingtest"
)

// Of the rules of lint_test.go, these are about signers.
func init() {
	add := func(name, code string, do func(*kit)) {
		broken = append(broken, struct {
			name string
			code string
			file string
			do   func(k *kit)
		}{name, code, IssuerKeyFile, do})
	}
	add("reference without a signer", badReference, func(k *kit) {
		k.files[IssuerKeyFile] = block(signing.BlockType, []byte("of nobody"))
	})
	add("signer that is away", signerAway, func(k *kit) {
		signer := signingtest.Serve(k.t, k.issuer.key)
		k.files[IssuerKeyFile] = signer.Key(k.t).Reference()
		signer.Has(nil, errors.New("the token is absent"))
	})
	add("signer of another key", signerOther, func(k *kit) {
		signer := signingtest.Serve(k.t, k.issuer.key)
		k.files[IssuerKeyFile] = signer.Key(k.t).Reference()
		signer.Has(signingtest.P256(k.t), nil)
	})
}

// heldKeys is a CA whose keys are of two signers.
type heldKeys struct {
	root, issuer *signingtest.Signer
	files        Files
}

func heldCA(t *testing.T, opts Options) heldKeys {
	t.Helper()
	h := heldKeys{root: signingtest.Serve(t, signingtest.P256(t)), issuer: signingtest.Serve(t, signingtest.P256(t))}
	opts.TrustDomain, opts.RootKey, opts.IssuerKey = td, h.root.Key(t), h.issuer.Key(t)
	var err error
	if h.files, err = Make(opts); err != nil {
		t.Fatal(err)
	}
	return h
}

// A002-21: keys that programs of others have, as of a KMS or an HSM.
func TestACAWhoseKeysSignersHaveSignsAndRenews(t *testing.T) {
	// Half of its life is over: it is backdated by a minute.
	h := heldCA(t, Options{IssuerTTL: 50 * time.Second})
	for _, name := range []string{RootKeyFile, IssuerKeyFile} {
		if bytes.Contains(h.files[name], []byte("PRIVATE")) {
			t.Fatalf("%s holds a private key", name)
		}
	}
	store := &Memory{}
	store.Set(h.files)
	k := open(t, store)
	leaf := sign(t, k.ca, plainCSR(t), time.Hour)
	if err := verify(k.ca, leaf, x509.ExtKeyUsageServerAuth); err != nil {
		t.Error(err)
	}
	if state := k.Renewal().State; state != RenewalAutomatic {
		t.Errorf("renewal: %v", state)
	}
	former := k.ca.Issuer()
	k.share = 0
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := k.ca.Issuer()
	if next.Equal(former) || !next.PublicKey.(*ecdsa.PublicKey).Equal(former.PublicKey) {
		t.Errorf("the next issuer is the former one, or has another key than the signer's: %s", describe(next))
	}
	files, _ := store.Read(t.Context())
	if !bytes.Equal(files[IssuerKeyFile], h.files[IssuerKeyFile]) {
		t.Error("the reference changed")
	}
	if n := k.ca.Signer().Counts(); n.Signed == 0 || n.Away+n.Wrong > 0 {
		t.Errorf("signatures: %+v", n)
	}
}

func TestKeysOfSignersThatMakeNoSuchCAAreRefused(t *testing.T) {
	one := signingtest.Serve(t, signingtest.P256(t))
	key, again := one.Key(t), one.Key(t)
	for name, opts := range map[string]Options{
		"same key":   {RootKey: key, IssuerKey: again},
		"of another": {RootKey: key, Keys: identity.MLDSA65},
		"no signer":  {IssuerKey: key, Keys: identity.MLDSA65},
	} {
		opts.TrustDomain = td
		if _, err := Make(opts); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	made, err := Make(Options{TrustDomain: td, RootKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NextIssuer(made, key, Options{IssuerKey: again}); err == nil || !strings.Contains(err.Error(), "same key") {
		t.Errorf("the root's key for the next issuer: %v", err)
	}
	quantum, err := Make(Options{TrustDomain: td, Keys: identity.MLDSA65})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Successor(quantum, Options{RootKey: key}); err != nil {
		t.Errorf("a root of ML-DSA is followed by a signer's: %v", err)
	}
}

func TestTheNextIssuerMovesToASigner(t *testing.T) {
	made, err := Make(Options{TrustDomain: td})
	if err != nil {
		t.Fatal(err)
	}
	key := signingtest.Serve(t, signingtest.P256(t)).Key(t)
	next, err := NextIssuer(made, made.rootKey(Options{}), Options{IssuerKey: key})
	if err != nil {
		t.Fatal(err)
	}
	if !keyFits(next[IssuerKeyFile], []*x509.Certificate{IssuerOf(next)}) || !bytes.Equal(next[IssuerKeyFile], key.Reference()) {
		t.Errorf("the issuer's key is\n%s", next[IssuerKeyFile])
	}
	if !whole(made.with(next)) {
		t.Error("a directory with a reference is taken for half a CA")
	}
}

func TestACAWaitsForItsSignerAndSaysWhenItIsLost(t *testing.T) {
	h := heldCA(t, Options{})
	key, locked := h.issuer.Has(nil, nil), errors.New("the token is locked")
	h.issuer.Has(nil, locked)
	store := &Memory{}
	store.Set(h.files)
	k := NewKeeper(KeeperOptions{CA: newCA(t), Store: store})
	err := k.Open(t.Context())
	if !errors.Is(err, signing.ErrAway) || !strings.Contains(err.Error(), signerAway) || !strings.Contains(err.Error(), locked.Error()) {
		t.Fatalf("its signer is away: %v", err)
	}
	if k.ca.Issuer() != nil {
		t.Fatal("it is open")
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	defer func() { stop(); <-done }()
	h.issuer.Has(key, nil)
	await(t, "it opens", func() bool { return k.Waiting() == nil })
	sign(t, k.ca, plainCSR(t), time.Hour)

	h.issuer.Has(nil, locked)
	if _, err := k.ca.Sign(plainCSR(t), web, time.Hour); !errors.Is(err, signing.ErrAway) {
		t.Errorf("signed by a signer that is away: %v", err)
	}
	await(t, "the loss is told", func() bool { return k.Events()[SignerLost] == 1 })
	store.Set(h.files) // that has it look
	await(t, "what it waits for is said", func() bool { return strings.Contains(k.Trouble().Problem, locked.Error()) })
	if n := k.Events()[IssuerValidationFailed]; n > 0 {
		t.Errorf("what it cannot judge now is refused %d times", n)
	}
	h.issuer.Has(signingtest.P256(t), nil) // back, with another key
	await(t, "that is said", func() bool { return errors.Is(k.ca.Signer().Watch(), signing.ErrOtherKey) })
	h.issuer.Has(key, nil)
	await(t, "its return is told", func() bool { return k.Events()[SignerBack] == 1 })
	sign(t, k.ca, plainCSR(t), time.Hour)
}

// hanging is a key that signs when it is let go.
type hanging struct {
	crypto.Signer
	on chan struct{}
}

func (h hanging) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	<-h.on
	return h.Signer.Sign(random, digest, opts)
}

// The next certificate of the CA's own is due, and its signer hangs: handshakes go on.
func TestAHandshakeDoesNotWaitForASignerThatHangs(t *testing.T) {
	h := heldCA(t, Options{})
	store := &Memory{}
	store.Set(h.files)
	c := open(t, store).ca
	serving := c.ServerCertificate("ca")
	first, err := serving(nil)
	if err != nil {
		t.Fatal(err)
	}
	const jump = MaxTTL/2 + time.Hour
	first.Leaf.NotBefore, first.Leaf.NotAfter = first.Leaf.NotBefore.Add(-jump), first.Leaf.NotAfter.Add(-jump)
	on := make(chan struct{})
	key := h.issuer.Has(nil, nil)
	h.issuer.Has(hanging{key, on}, nil)
	before := c.Signer().Counts()
	if now, err := serving(nil); err != nil || now != first {
		t.Errorf("another certificate, %v", err)
	}
	if after := c.Signer().Counts(); after != before {
		t.Errorf("a handshake had the signer's answer: %+v, before %+v", after, before)
	}
	close(on)
	await(t, "the next certificate is made", func() bool {
		now, err := serving(nil)
		return err == nil && now != first
	})
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

func TestASignerOfAnotherKeyIsNotTaken(t *testing.T) {
	h := heldCA(t, Options{})
	store := &Memory{}
	store.Set(h.files)
	k := open(t, store)
	h.issuer.Has(signingtest.P256(t), nil)
	err := k.look(t.Context())
	if err == nil || !strings.Contains(err.Error(), signerOther) || !strings.Contains(err.Error(), IssuerKeyFile) {
		t.Errorf("another key: %v", err)
	}
	// A reference that fits to no certificate is said without a question to the signer.
	files := maps.Clone(h.files)
	files[IssuerKeyFile] = h.root.Key(t).Reference()
	if err := newCA(t).Refuses(files); err == nil || !strings.Contains(err.Error(), foreignKey) {
		t.Errorf("the root's key as the issuer's: %v", err)
	}
	files[IssuerKeyFile] = bytes.ReplaceAll(h.files[IssuerKeyFile], []byte("unix:/"), []byte("tcp:/"))
	if err := newCA(t).Refuses(files); err == nil || !strings.Contains(err.Error(), badReference) {
		t.Errorf("another scheme: %v", err)
	}
}

func TestARootOfASignerIsRenewedAndFollowed(t *testing.T) {
	h := heldCA(t, Options{})
	next, err := NextRoot(h.files, h.root.Key(t), Options{TrustDomain: td, RootTTL: 20 * 365 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := newCA(t).Refuses(h.files.with(next)); err != nil {
		t.Error(err)
	}
	if _, err := Successor(h.files, Options{}); !errors.Is(err, ErrHeld) {
		t.Errorf("a successor with keys in files: %v", err)
	}
	other := heldCA(t, Options{})
	files, err := Successor(h.files, Options{RootKey: other.root.Key(t), IssuerKey: other.issuer.Key(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := newCA(t).Refuses(files); err != nil {
		t.Error(err)
	}
}
