// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/ecdsa"
	"crypto/mldsa"
	"errors"
	"maps"
	"testing"

	"github.com/culvert-mesh/culvert/identity"
)

// A replica that was cut off while the root was re-keyed takes what the others did, step by
// step and judged: it must not sign by the former issuer for ever.
func TestAReplicaThatMissedARekeyTakesWhatCameOfIt(t *testing.T) {
	store := &Memory{}
	load := func(c *CA) {
		t.Helper()
		if err := c.Load(t.Context(), store); err != nil {
			t.Fatal(err)
		}
	}
	open := func() *CA {
		t.Helper()
		c, err := New(Options{TrustDomain: td})
		if err != nil {
			t.Fatal(err)
		}
		load(c)
		return c
	}
	late, other := open(), open()
	next, err := Successor(Files{RootFile: EncodeCerts(other.Roots())}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []Files{
		{RootFile: EncodeCerts(append(other.Roots(), next.Roots()...))},
		{IssuerFile: next[IssuerFile], IssuerKeyFile: next[IssuerKeyFile], RootKeyFile: next[RootKeyFile]},
		{RootFile: next[RootFile]},
	} {
		was, err := store.Read(t.Context())
		if err == nil {
			err = store.Replace(t.Context(), was, step)
		}
		if err != nil {
			t.Fatal(err)
		}
		load(other)
	}
	load(late)
	if roots := late.Roots(); len(roots) != 1 || !roots[0].Equal(next.Roots()[0]) || !late.Issuer().Equal(IssuerOf(next)) {
		t.Errorf("it has the roots %v, and signs by %v", roots, late.Issuer().Subject)
	}
	// An operator who does all of that at once is refused: nodes do not trust the root.
	alone := open()
	all, err := Successor(next, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alone.Take(all); err == nil {
		t.Error("another root and its issuer were taken at once")
	}
}

// A re-key makes nothing weaker that nobody asked it to: the kind of keys stays, and no key in
// clear follows an encrypted one.
func TestASuccessorIsNotWeaker(t *testing.T) {
	files, err := Make(Options{TrustDomain: td, Keys: identity.MLDSA65})
	if err != nil {
		t.Fatal(err)
	}
	next, err := Successor(files, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := next.Roots()[0].PublicKey.(*mldsa.PublicKey); !ok {
		t.Errorf("a root with a key of %T follows", next.Roots()[0].PublicKey)
	}
	back, err := Successor(files, Options{Keys: identity.P256})
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := back.Roots()[0].PublicKey.(*ecdsa.PublicKey); !ok {
		t.Errorf("P-256 was asked for: a root with a key of %T", back.Roots()[0].PublicKey)
	}
	if files, err = Make(Options{TrustDomain: td}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{RootKeyFile, IssuerKeyFile} {
		sealed := maps.Clone(files)
		sealed[name] = encrypted(t, keyOf(files[name]), "sesame")
		if _, err := Successor(sealed, Options{}); !errors.Is(err, ErrEncrypted) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
