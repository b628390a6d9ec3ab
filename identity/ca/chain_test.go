// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// party is a certificate of the tests with its key.
type party struct {
	*x509.Certificate
	key crypto.Signer
}

// newParty makes an authority below parent; nil: itself.
func newParty(t testing.TB, parent *party, key crypto.Signer, template *x509.Certificate) *party {
	t.Helper()
	if key == nil {
		key = newKey(t, elliptic.P256())
	}
	by := &party{template, key}
	if parent != nil {
		by = parent
	}
	cert, err := create(template, by.Certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}

// authorityFor is the template of an authority that nothing is wrong with.
func authorityFor(name string, ttl time.Duration, pathLen int) *x509.Certificate {
	return authorityTemplate(name, td, ttl, pathLen)
}

func pemOf(parties ...*party) []byte {
	var text bytes.Buffer
	for _, p := range parties {
		text.Write(encodeCert(p.Certificate))
	}
	return text.Bytes()
}

func keyPEM(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pkcs8Key, Bytes: der})
}

func taken(t testing.TB, files Files) *CA {
	t.Helper()
	c := newCA(t)
	if _, err := c.Take(files); err != nil {
		t.Fatal(err)
	}
	return c
}

// A004-1: one or two intermediates between root and issuer. A peer that trusts the
// root alone verifies what the CA signs.
func TestIssuersOfDepthTwoAndThreeAreAccepted(t *testing.T) {
	root := newParty(t, nil, nil, authorityFor("root", 4*time.Hour, 3))
	upper := newParty(t, root, nil, authorityFor("upper", 3*time.Hour, 2))
	lower := newParty(t, upper, nil, authorityFor("lower", 2*time.Hour, 1))
	for depth, above := range [][]*party{{root}, {upper, root}, {lower, upper, root}} {
		issuer := newParty(t, above[0], nil, authorityFor("issuer", time.Hour, 0))
		chain := append([]*party{issuer}, above[:len(above)-1]...)
		c := taken(t, Files{RootFile: pemOf(root), IssuerFile: pemOf(chain...), IssuerKeyFile: keyPEM(t, issuer.key)})
		leaf, err := c.Sign(plainCSR(t), web, time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		if len(leaf) != depth+2 {
			t.Errorf("depth %d: %d certificates, want the leaf and what is above it but the root", depth, len(leaf))
		}
		roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
		roots.AddCert(root.Certificate)
		for _, cert := range leaf[1:] {
			intermediates.AddCert(cert)
		}
		if _, err := leaf[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
			t.Errorf("depth %d: %v", depth, err)
		}
		serving, err := c.ServerCertificate("ca")(nil)
		if err != nil || len(serving.Certificate) != depth+2 {
			t.Errorf("depth %d: the CA's own chain has %d certificates, %v", depth, len(serving.Certificate), err)
		}
	}
}

// A001-11: a bundle of three roots. All are handed out, whatever their order is, and
// another order is no change.
func TestABundleOfSeveralRootsIsASet(t *testing.T) {
	var roots []*party
	for _, name := range []string{"one", "two", "three"} {
		roots = append(roots, newParty(t, nil, nil, authorityFor(name, 2*time.Hour, 1)))
	}
	issuer := newParty(t, roots[1], nil, authorityFor("issuer", time.Hour, 0))
	files := Files{RootFile: pemOf(roots...), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)}
	c := taken(t, files)
	if got := c.Roots(); len(got) != 3 {
		t.Fatalf("%d roots, want three", len(got))
	}
	slices.Reverse(roots)
	files[RootFile] = pemOf(append(roots, roots[0])...)
	if changed, err := c.Take(files); changed || err != nil {
		t.Errorf("another order, and one twice: changed %v, %v", changed, err)
	}
	files[RootFile] = pemOf(roots[0], roots[2])
	if _, err := c.Take(files); err == nil {
		t.Error("took a bundle without the root of its issuer")
	}
}

// A000-4: the keys that an operator's CA may have.
func TestKeysOfEveryKindSign(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]crypto.Signer{"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "Ed25519": edKey}
	for name, bits := range map[string]int{"RSA-2048": 2048, "RSA-4096": 4096} {
		if testing.Short() && bits > 2048 {
			continue
		}
		key, err := rsa.GenerateKey(rand.Reader, bits)
		if err != nil {
			t.Fatal(err)
		}
		keys[name] = key
	}
	for name, key := range keys {
		root := newParty(t, nil, key, authorityFor("root", 2*time.Hour, 1))
		issuer := newParty(t, root, key, authorityFor("issuer", time.Hour, 0))
		c := taken(t, Files{RootFile: pemOf(root), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, key), RootKeyFile: keyPEM(t, key)})
		leaf := sign(t, c, plainCSR(t), time.Minute)
		if err := verify(c, leaf, x509.ExtKeyUsageClientAuth); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A root that was renewed with the same key: the leaf may live as long as the later
// of the two, for a peer that has both takes either.
func TestOfARenewedRootTheLaterEndCounts(t *testing.T) {
	key := newKey(t, elliptic.P256())
	soon := newParty(t, nil, key, authorityFor("root", time.Hour, 1))
	later := newParty(t, nil, key, authorityFor("root", 5*time.Hour, 1))
	issuer := newParty(t, soon, nil, authorityFor("issuer", 4*time.Hour, 0))
	for _, roots := range [][]*party{{soon, later}, {later, soon}} {
		c := taken(t, Files{RootFile: pemOf(roots...), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)})
		if got := sign(t, c, plainCSR(t), 24*time.Hour); !got.NotAfter.Equal(issuer.NotAfter) {
			t.Errorf("ends on %v, want with the issuer on %v", got.NotAfter, issuer.NotAfter)
		}
	}
}

// Of the reference, a log shows a leaf that outlives its issuer by ten years. Whatever
// lives the certificates above it have, a leaf lies within each that it needs.
// istio#59768: a leaf outlived its issuer by ten years.
func TestNoLeafOutlivesWhatItNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		random := mathrand.New(mathrand.NewPCG(1, 2))
		life := func() time.Duration { return time.Minute + time.Duration(random.Int64N(int64(48*time.Hour))) }
		for round := range 100 {
			root := newParty(t, nil, nil, authorityFor("root", life(), 4))
			chain := []*party{root}
			for i := range 1 + round%3 {
				chain = append(chain, newParty(t, chain[len(chain)-1], nil, authorityFor(fmt.Sprint("below ", i), life(), 3)))
				chain[len(chain)-1].NotBefore = root.NotBefore
			}
			slices.Reverse(chain)
			c, err := New(Options{TrustDomain: td})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := c.Take(Files{RootFile: pemOf(root), IssuerFile: pemOf(chain[:len(chain)-1]...), IssuerKeyFile: keyPEM(t, chain[0].key)}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.Int64N(int64(30 * time.Second)))) // bubble time
			leaf, err := c.Sign(plainCSR(t), web, life())
			if err != nil {
				t.Fatal(err)
			}
			for _, above := range chain {
				if leaf[0].NotAfter.After(above.NotAfter) || leaf[0].NotBefore.Before(above.NotBefore) {
					t.Fatalf("round %d: the leaf holds from %v to %v, %v above it from %v to %v", round,
						leaf[0].NotBefore, leaf[0].NotAfter, above.Subject, above.NotBefore, above.NotAfter)
				}
			}
		}
	})
}
