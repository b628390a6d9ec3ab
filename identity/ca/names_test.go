// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/elliptic"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A004-17: OpenSSL takes a leaf for the names in it, and for no other; the SPIFFE ID is
// its only URI.
func TestALeafMayHaveDNSNamesOfItsNamespace(t *testing.T) {
	t.Parallel()
	names := []string{"web.shop.svc", "web.shop.svc.cluster.local", "web-1.shop.pod"}
	for name, key := range map[string]crypto.Signer{"by a form": newKey(t, elliptic.P256()), "by crypto/x509": newEd25519(t)} {
		root, issuer := issuerOf(t, key, nil)
		c := taken(t, Files{RootFile: pemOf(root), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, key)})
		issued, err := c.Issue(newKey(t, elliptic.P256()).Public(), web, "", time.Hour, names...)
		if err != nil {
			t.Fatal(err)
		}
		leaf := parsed(t, issued.Leaf)
		if !slices.Equal(leaf.DNSNames, names) || len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() {
			t.Errorf("%s: %v, %v", name, leaf.DNSNames, leaf.URIs)
		}
		dir := t.TempDir()
		for file, text := range map[string][]byte{"root": pemOf(root), "issuer": pemOf(issuer), "leaf": encodeCert(leaf)} {
			if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for host, want := range map[string]bool{"web.shop.svc": true, "web.shop.svc.cluster.local": true, "web-1.shop.pod": true, "db.shop.svc": false, "shop.svc": false} {
			_, err := opensslIn(t, dir, "verify -x509_strict -no-CApath -no-CAstore -CAfile root -untrusted issuer -purpose sslserver -verify_hostname "+host+" leaf")
			if (err == nil) != want {
				t.Errorf("%s: as %s: %v", name, host, err)
			}
		}
	}
}

func TestALeafGetsNoOtherDNSNamesAndNotTooMany(t *testing.T) {
	t.Parallel()
	c := taken(t, made(t))
	key := newKey(t, elliptic.P256()).Public()
	for _, foreign := range []string{"web.bank.svc", "example.com", "*.shop.svc", "", "web.shop.svc\x00"} {
		if _, err := c.Issue(key, web, "", time.Hour, "web.shop.svc", foreign); err == nil || !strings.Contains(err.Error(), "not the DNS name of a pod or Service of its namespace") {
			t.Errorf("%q: %v", foreign, err)
		}
	}
	var many []string
	for n := range 17 {
		many = append(many, fmt.Sprintf("web-%d.shop.pod", n))
	}
	if _, err := c.Issue(key, web, "", time.Hour, many...); err == nil || !strings.Contains(err.Error(), "17 DNS names, of which 16 fit") {
		t.Error(err)
	}
}

// An issuer that may not have such leaves is refused before it signs one.
func TestAnIssuerWhoseConstraintsExcludeDNSNamesIsRefusedWhereLeavesHaveThem(t *testing.T) {
	t.Parallel()
	root, issuer := issuerOf(t, nil, func(c *x509.Certificate) {
		c.PermittedDNSDomainsCritical, c.PermittedURIDomains, c.PermittedDNSDomains = true, []string{td.Name()}, []string{"ca.test"}
	})
	files := Files{RootFile: pemOf(root), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)}
	if err := errorsOf(Lint(files, Options{TrustDomain: td})); err != nil {
		t.Fatal(err)
	}
	if err := errorsOf(Lint(files, Options{TrustDomain: td, LeafNames: []string{"probe.culvert-system.svc"}})); err == nil || !strings.Contains(err.Error(), nameConstraints) {
		t.Error(err)
	}
}
