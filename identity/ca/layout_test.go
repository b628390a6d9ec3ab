// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto/elliptic"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// brought are the files of one CA in a layout: a root, an intermediate and an issuer.
func brought(t *testing.T, layout Layout) (files Files, root, issuer *party) {
	t.Helper()
	root = newParty(t, nil, nil, authorityFor("root of "+string(layout), 3*time.Hour, 2))
	upper := newParty(t, root, nil, authorityFor("upper", 2*time.Hour, 1))
	issuer = newParty(t, upper, nil, authorityFor("issuer", time.Hour, 0))
	key := keyPEM(t, issuer.key)
	switch layout {
	case Culvert:
		files = Files{"root.pem": pemOf(root), "issuer.pem": pemOf(issuer, upper), "issuer.key": key}
	case Istio: // as its Makefile writes it: the chain repeats the issuer, and ends with the root
		files = Files{"root-cert.pem": pemOf(root), "ca-cert.pem": pemOf(issuer), "ca-key.pem": key, "cert-chain.pem": pemOf(issuer, upper, root)}
	case Dapr:
		files = Files{"ca.crt": pemOf(root), "issuer.crt": pemOf(issuer, upper), "issuer.key": key}
	case Linkerd:
		files = Files{"ca-bundle.crt": pemOf(root), "crt.pem": pemOf(issuer, upper), "key.pem": key}
	case CertManager:
		files = Files{"ca.crt": pemOf(root), "tls.crt": pemOf(issuer, upper), "tls.key": key}
	}
	return files, root, issuer
}

func written(t *testing.T, files Files) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A002-7: each layout of the field is found, and it is said which. A Secret is a map
// of the same names.
func TestEveryLayoutIsFoundInADirectoryAndInASecret(t *testing.T) {
	for _, layout := range []Layout{Culvert, Istio, Dapr, Linkerd, CertManager} {
		files, root, issuer := brought(t, layout)
		open, err := Open(written(t, files), Options{TrustDomain: td})
		if err != nil {
			t.Errorf("%s in a directory: %v", layout, err)
			continue
		}
		files["unrelated"] = []byte("x")
		for where, c := range map[string]*CA{"directory": open, "Secret": taken(t, files)} {
			if c.Layout() != layout || !c.Roots()[0].Equal(root.Certificate) || !c.Issuer().Equal(issuer.Certificate) {
				t.Errorf("%s in a %s: layout %s, root %v, issuer %v", layout, where, c.Layout(), c.Roots()[0].Subject, c.Issuer().Subject)
			}
			chain, err := c.Sign(plainCSR(t), web, time.Minute)
			if err != nil || len(chain) != 3 {
				t.Errorf("%s in a %s: a chain of %d, %v; want leaf, issuer and intermediate", layout, where, len(chain), err)
			}
		}
	}
}

// Linkerd keeps its anchors elsewhere; with them beside it under the name that all
// others use, the Secret is complete.
func TestLinkerdsAnchorsMayBeInCACrt(t *testing.T) {
	files, _, _ := brought(t, Linkerd)
	files["ca.crt"] = files["ca-bundle.crt"]
	delete(files, "ca-bundle.crt")
	if c := taken(t, files); c.Layout() != Linkerd {
		t.Errorf("layout %s", c.Layout())
	}
}

// A002-18: of several layouts the first in the documented order is in use, alone or
// not, and the others are a warning.
func TestOfSeveralLayoutsTheOrderDecides(t *testing.T) {
	order := []Layout{Culvert, Istio, Linkerd, CertManager}
	for i, first := range order {
		for _, second := range order[i+1:] {
			files, root, _ := brought(t, first)
			others, _, _ := brought(t, second)
			maps.Copy(files, others)
			c := taken(t, files)
			if c.Layout() != first || !c.Roots()[0].Equal(root.Certificate) {
				t.Errorf("%s and %s: %s is in use", first, second, c.Layout())
			}
			warnings := c.Warnings()
			if len(warnings) != 1 || warnings[0].Code != otherLayout || !strings.Contains(warnings[0].What, string(second)) {
				t.Errorf("%s and %s: %v", first, second, warnings)
			}
		}
	}
}

// A002-18: a pair that does not match is refused, and so is one of which a file is
// missing; a consistent other layout is not taken in its place, and that is said.
func TestAConsistentOtherLayoutIsNoSubstitute(t *testing.T) {
	for want, damage := range map[string]func(Files){
		"key.pem does not belong to crt.pem": func(f Files) { f["key.pem"] = keyPEM(t, newKey(t, elliptic.P256())) },
		"key.pem is missing":                 func(f Files) { delete(f, "key.pem") },
		"crt.pem is missing":                 func(f Files) { delete(f, "crt.pem") },
	} {
		files, _, _ := brought(t, Linkerd)
		others, _, _ := brought(t, CertManager)
		maps.Copy(files, others)
		damage(files)
		_, err := newCA(t).Take(files)
		if got := text(err); !strings.Contains(got, want) || !strings.Contains(got, "layout certmanager are complete, and are not taken in place") {
			t.Errorf("%q, want %q and why the other is not taken", got, want)
		}
	}
}

// A000-2: whatever part of a CA is there, of whatever layout, is named and refused.
func TestPartOfALayoutIsNamed(t *testing.T) {
	for _, test := range []struct {
		there   string
		layout  Layout
		missing string
		err     string
	}{
		{"", "", "", ""},
		{"README ..data lost+found", "", "", ""},
		{"root.pem", Culvert, "issuer.pem issuer.key", ""},
		{"root.key", Culvert, "root.pem issuer.pem issuer.key", ""},
		{"root.pem issuer.pem issuer.key", Culvert, "", ""},
		{"cert-chain.pem", Istio, "root-cert.pem ca-cert.pem ca-key.pem", ""},
		{"root-cert.pem ca-cert.pem ca-key.pem", Istio, "", ""},
		{"ca.crt issuer.crt", Dapr, "issuer.key", ""},
		{"issuer.crt issuer.key", Dapr, "ca.crt", ""},
		{"crt.pem key.pem", Linkerd, "ca-bundle.crt or ca.crt", ""},
		{"ca.crt crt.pem key.pem", Linkerd, "", ""},
		{"tls.crt tls.key", CertManager, "ca.crt", ""},
		{"root.pem issuer.key ca.crt issuer.crt", Culvert, "issuer.pem", ""},
		{"ca.crt", "", "", "ca.crt is there, but no certificate of an issuer"},
		{"issuer.key", "", "", "issuer.key is there, but no certificate of an issuer"},
	} {
		layout, missing, err := Detect(strings.Fields(test.there))
		if layout != test.layout || strings.Join(missing, " ") != test.missing || !strings.Contains(text(err), test.err) || (err != nil) != (test.err != "") {
			t.Errorf("%q: %q, missing %q, %v; want %q, %q, %q", test.there, layout, missing, err, test.layout, test.missing, test.err)
		}
		known := slices.ContainsFunc(strings.Fields(test.there), Known)
		if known != (test.layout != "" || test.err != "") {
			t.Errorf("%q: known %v", test.there, known)
		}
	}
}

// A002-17: cert-manager's ca.crt is the root, or, if its own Secret does not have the
// root, the direct parent of the issuer. tls.crt may hold more than the issuer.
func TestCertManagersCACrtMayBeTheRootOrTheParent(t *testing.T) {
	root := newParty(t, nil, nil, authorityFor("root", 3*time.Hour, 2))
	parent := newParty(t, root, nil, authorityFor("parent", 2*time.Hour, 1))
	issuer := newParty(t, parent, nil, authorityFor("issuer", time.Hour, 0))
	for name, test := range map[string]struct {
		anchor *party
		chain  []*party
		above  int // certificates that are sent with a leaf
		warned bool
	}{
		"the root":                              {root, []*party{issuer, parent}, 2, false},
		"the root, and the chain with it":       {root, []*party{issuer, parent, root}, 2, false},
		"the parent":                            {parent, []*party{issuer}, 1, true},
		"the parent, and the chain with it":     {parent, []*party{issuer, parent}, 1, true},
		"the parent, and the chain to the root": {parent, []*party{issuer, parent, root}, 1, true},
	} {
		c := taken(t, Files{"ca.crt": pemOf(test.anchor), "tls.crt": pemOf(test.chain...), "tls.key": keyPEM(t, issuer.key)})
		chain, err := c.Sign(plainCSR(t), web, time.Minute)
		if err != nil || len(chain) != 1+test.above {
			t.Errorf("%s: a chain of %d, %v", name, len(chain), err)
			continue
		}
		if warned := len(c.Warnings()) > 0; warned != test.warned {
			t.Errorf("%s: %v", name, c.Warnings())
		}
	}
}
