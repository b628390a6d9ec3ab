// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const serverName = "culvert-identity.culvert-system.svc"

// design is a root and an issuer before they are signed.
type design struct {
	root, issuer *x509.Certificate
	parent       func(root *x509.Certificate) *x509.Certificate // of the issuer, as it is told
}

// build signs a design.
func build(t *testing.T, change func(*design)) Files {
	t.Helper()
	d := design{
		root: authorityTemplate("root", td, 2*time.Hour, 1), issuer: authorityTemplate("issuer", td, time.Hour, 0),
		parent: func(root *x509.Certificate) *x509.Certificate { return root },
	}
	change(&d)
	rootKey, issuerKey := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	root, err := create(d.root, d.root, rootKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	issuer, err := create(d.issuer, d.parent(root), issuerKey.Public(), rootKey)
	if err != nil {
		t.Fatal(err)
	}
	files := Files{RootFile: encodeCert(root), IssuerFile: encodeCert(issuer)}
	for name, key := range map[string]func() ([]byte, error){
		RootKeyFile:   func() ([]byte, error) { return encodeKey(rootKey) },
		IssuerKeyFile: func() ([]byte, error) { return encodeKey(issuerKey) },
	} {
		if files[name], err = key(); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

func constrain(cert *x509.Certificate, change func(*x509.Certificate)) {
	cert.PermittedDNSDomainsCritical = true // the whole extension, in spite of the name
	change(cert)
}

func TestCAsThatNobodyCanUseAreRefusedByName(t *testing.T) {
	unknown := pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}
	both := []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	keyIDOf := func(id keyID) []pkix.Extension {
		value, err := asn1.Marshal(id)
		if err != nil {
			t.Fatal(err)
		}
		return []pkix.Extension{{Id: oidKeyID, Value: value}}
	}
	for _, test := range []struct {
		name   string
		change func(*design)
		want   string // "": it can be used
		goToo  bool   // crypto/x509 refuses it as well
	}{
		{"as it is made", func(d *design) {}, "", false},
		{"usages for both sides", func(d *design) { d.root.ExtKeyUsage, d.issuer.ExtKeyUsage = both, both }, "", false},
		{"constraints that permit us", func(d *design) {
			constrain(d.root, func(c *x509.Certificate) {
				c.PermittedURIDomains, c.PermittedDNSDomains = []string{"cluster.local"}, []string{"svc"}
			})
		}, "", false},
		{"one name, and a key identifier that tells them apart", func(d *design) {
			d.issuer.Subject = d.root.Subject
			d.root.SubjectKeyId, d.issuer.AuthorityKeyId = []byte("root"), []byte("root")
		}, "", false},

		{"root of path length 0", func(d *design) { d.root.MaxPathLen, d.root.MaxPathLenZero = 0, true },
			"root.pem: its path length 0 allows no more authorities than that below it, and there are 1", true},
		{"issuer for servers only", func(d *design) { d.issuer.ExtKeyUsage = both[:1] }, "issuer.pem: its extended key usage lacks clientAuth,", true},
		{"issuer for clients only", func(d *design) { d.issuer.ExtKeyUsage = both[1:] }, "issuer.pem: its extended key usage lacks serverAuth,", true},
		{"issuer for code", func(d *design) { d.issuer.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
			"issuer.pem: its extended key usage lacks serverAuth and clientAuth,", true},
		{"root for code", func(d *design) { d.root.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
			"root.pem: its extended key usage lacks serverAuth and clientAuth,", true},
		{"URIs of others only", func(d *design) {
			constrain(d.issuer, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.org"} })
		}, "the name constraints of issuer.pem: no verifier accepts a certificate for spiffe://", true},
		{"our URIs excluded", func(d *design) {
			constrain(d.root, func(c *x509.Certificate) { c.ExcludedURIDomains = []string{"cluster.local"} })
		}, "the name constraints of root.pem: no verifier accepts a certificate for spiffe://", true},
		{"our server's name excluded", func(d *design) {
			constrain(d.issuer, func(c *x509.Certificate) { c.ExcludedDNSDomains = []string{"svc"} })
		}, "no node accepts the CA's own certificate for " + serverName, true},
		{"root with an unknown critical extension", func(d *design) { d.root.ExtraExtensions = []pkix.Extension{unknown} },
			"root.pem: it has the critical extension 1.3.6.1.4.1.99999.1", true},
		{"issuer with an unknown critical extension", func(d *design) { d.issuer.ExtraExtensions = []pkix.Extension{unknown} },
			"issuer.pem: it has the critical extension 1.3.6.1.4.1.99999.1", true},

		{"issuer for any usage", func(d *design) { d.issuer.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} },
			"issuer.pem: its extended key usage lacks serverAuth and clientAuth,", false},
		{"one name, and no key identifier", func(d *design) { d.issuer.Subject = d.root.Subject },
			"OpenSSL takes it as self-signed (error 19)", false},
		{"key identifier of another", func(d *design) {
			d.parent = func(root *x509.Certificate) *x509.Certificate {
				other := *root
				other.SubjectKeyId = []byte("another")
				return &other
			}
		}, "issuer.pem: its authority key identifier names another key than that of root.pem", false},
		{"key identifier with the serial number of another", func(d *design) { d.issuer.ExtraExtensions = keyIDOf(keyID{Serial: big.NewInt(7)}) },
			"issuer.pem: its authority key identifier names another serial number than that of root.pem", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			files := build(t, test.change)
			c, err := New(Options{TrustDomain: td, ServerNames: []string{serverName}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Take(files)
			if got := text(err); test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("%q, want %q", got, test.want)
			}
			byGo, byOpenSSL := verdicts(t, files)
			if byGo != test.goToo {
				t.Errorf("crypto/x509 refuses: %v", byGo)
			}
			if byOpenSSL != (test.want != "") {
				t.Errorf("OpenSSL refuses: %v", byOpenSSL)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// verdicts are those of two verifiers on a leaf for both sides, and on a server's.
func verdicts(t *testing.T, files Files) (goRefuses, openSSLRefuses bool) {
	t.Helper()
	root, _ := pair(t, files, RootFile, RootKeyFile)
	issuer, key := pair(t, files, IssuerFile, IssuerKeyFile)
	a := &authority{roots: []*x509.Certificate{root}, anchor: root, chain: []*x509.Certificate{issuer}, key: key, form: newForm(issuer, key)}
	goRefuses = a.prove(Options{TrustDomain: td, ServerNames: []string{serverName}}) != nil

	dir := t.TempDir()
	issued, err := a.workload(spiffeid.RequireFromPath(td, "/ns/shop/sa/web"), "", newKey(t, elliptic.P256()).Public(), time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parsed(t, issued.Leaf)
	server, err := a.serving([]string{serverName}, spiffeid.ID{})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"root": files[RootFile], "issuer": files[IssuerFile], "leaf": encodeCert(leaf), "server": encodeCert(server.Leaf),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"sslclient", "leaf"}, {"sslserver", "leaf"}, {"sslserver", "server"}} {
		cmd := exec.Command("openssl", "verify", "-no-CApath", "-no-CAstore", "-CAfile", "root", "-untrusted", "issuer", "-purpose", args[0], args[1])
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Logf("%s", bytes.TrimSpace(out))
			openSSLRefuses = true
		}
	}
	return goRefuses, openSSLRefuses
}
