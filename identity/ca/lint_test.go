// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdh"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/youmark/pkcs8"
)

// kit is a CA that an operator brings, before something is done to it.
type kit struct {
	t            *testing.T
	root, issuer *party
	files        Files
	opts         Options
}

func newKit(t *testing.T) *kit {
	k := &kit{t: t, opts: Options{TrustDomain: td, ServerNames: []string{serverName}, LeafTTL: 5 * time.Minute}}
	k.root = newParty(t, nil, nil, authorityFor("root", 2*time.Hour, 1))
	k.issue(nil, nil)
	k.files[RootKeyFile] = keyPEM(t, k.root.key)
	return k
}

// issue makes the issuer anew, with a template that is changed.
func (k *kit) issue(key crypto.Signer, change func(*x509.Certificate)) {
	template := authorityFor("issuer", time.Hour, 0)
	if change != nil {
		change(template)
	}
	k.issuer = newParty(k.t, k.root, key, template)
	k.write(k.issuer)
}

// write writes all but the root's key.
func (k *kit) write(chain ...*party) {
	if k.files == nil {
		k.files = Files{}
	}
	k.files[RootFile] = pemOf(k.root)
	k.files[IssuerFile] = pemOf(chain...)
	k.files[IssuerKeyFile] = keyPEM(k.t, k.issuer.key)
}

// reroot makes the root and what is below it anew.
func (k *kit) reroot(change func(*x509.Certificate)) {
	template := authorityFor("root", 2*time.Hour, 1)
	change(template)
	k.root = newParty(k.t, nil, nil, template)
	k.files[RootKeyFile] = keyPEM(k.t, k.root.key)
	k.issue(nil, nil)
}

func (k *kit) another() *party {
	return newParty(k.t, nil, nil, authorityFor("another", 2*time.Hour, 1))
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// inWords is a text in UTF-16, as PowerShell writes it.
func inWords(text []byte) []byte {
	words := []byte{0xff, 0xfe}
	for _, b := range text {
		words = append(words, b, 0)
	}
	return words
}

// raw signs a template as it is, with its own serial number and algorithm.
func raw(t *testing.T, template *x509.Certificate, by *party, key crypto.Signer) *party {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &party{cert, key}
}

func encrypted(t *testing.T, key crypto.Signer, passphrase string) []byte {
	t.Helper()
	der, err := pkcs8.MarshalPrivateKey(key, []byte(passphrase), pkcs8.DefaultOpts)
	if err != nil {
		t.Fatal(err)
	}
	return block(pkcs8Secret, der)
}

func (k *kit) passphrase(text string) {
	k.opts.PassphraseFile = filepath.Join(k.t.TempDir(), "passphrase")
	if err := os.WriteFile(k.opts.PassphraseFile, []byte(text), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

func extension(oid asn1.ObjectIdentifier, critical bool, value []byte) func(*x509.Certificate) {
	return func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: oid, Critical: critical, Value: value}}
	}
}

// broken are CAs with one defect each.
var broken = []struct {
	name string
	code string
	file string
	do   func(k *kit)
}{
	{"key lost", fileMissing, IssuerKeyFile, func(k *kit) { delete(k.files, IssuerKeyFile) }},
	{"disk full", fileEmpty, IssuerFile, func(k *kit) { k.files[IssuerFile] = []byte("\n") }},
	{"a log in the place of a key", fileTooLong, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = make([]byte, maxChain+1) }},
	{"chain of every CA there is", tooManyBlocks, IssuerFile, func(k *kit) { k.files[IssuerFile] = bytes.Repeat(pemOf(k.issuer), maxCerts+1) }},
	{"PowerShell", utf16, RootFile, func(k *kit) { k.files[RootFile] = inWords(k.files[RootFile]) }},
	{"binary", inDER, IssuerFile, func(k *kit) { k.files[IssuerFile] = k.issuer.Raw }},
	{"keystore", pkcs12, IssuerFile, func(k *kit) { k.files[IssuerFile] = []byte{0x30, 6, 2, 1, 3, 2, 1, 1} }},
	{"base64 of base64", noPEM, RootFile, func(k *kit) { k.files[RootFile] = []byte("LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0t") }},
	{"half a copy", brokenPEM, IssuerFile, func(k *kit) { k.files[IssuerFile] = k.files[IssuerFile][:200] }},
	{"root alone", noLayout, "", func(k *kit) { k.files = Files{"ca.crt": k.files[RootFile]} }},
	{"two layouts", otherLayout, "tls.crt", func(k *kit) {
		k.files["tls.crt"], k.files["tls.key"], k.files["ca.crt"] = k.files[IssuerFile], k.files[IssuerKeyFile], k.files[RootFile]
	}},

	{"all in one file", privateAmongCerts, IssuerFile, func(k *kit) { k.files[IssuerFile] = append(k.files[IssuerFile], k.files[IssuerKeyFile]...) }},
	{"request not signed yet", csrForCert, IssuerFile, func(k *kit) {
		k.files[IssuerFile] = block(pemCSR, newCSR(k.t, k.issuer.key, &x509.CertificateRequest{}))
	}},
	{"revocation list", crlForCert, RootFile, func(k *kit) { k.files[RootFile] = block("X509 CRL", []byte{0x30, 0}) }},
	{"PKCS#7", otherForCert, RootFile, func(k *kit) { k.files[RootFile] = block("PKCS7", []byte{0x30, 0}) }},
	{"certificate of noise", certUnreadable, IssuerFile, func(k *kit) { k.files[IssuerFile] = block("CERTIFICATE", []byte("noise")) }},

	{"certificate with the key", certAmongKeys, IssuerKeyFile, func(k *kit) {
		k.files[IssuerKeyFile] = append(k.files[IssuerKeyFile], k.files[IssuerFile]...)
	}},
	{"two keys", manyKeys, IssuerKeyFile, func(k *kit) {
		k.files[IssuerKeyFile] = append(k.files[IssuerKeyFile], k.files[RootKeyFile]...)
	}},
	{"public key", noKey, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = block("PUBLIC KEY", k.issuer.RawSubjectPublicKeyInfo) }},
	{"ssh-keygen", sshKey, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = block(openSSHKey, []byte("openssh-key-v1")) }},
	{"key of noise", badKey, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = block(pkcs8Key, []byte("noise")) }},
	{"key that signs nothing", badKey, IssuerKeyFile, func(k *kit) {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			k.t.Fatal(err)
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			k.t.Fatal(err)
		}
		k.files[IssuerKeyFile] = block(pkcs8Key, der)
	}},
	{"no passphrase", encryptedKey, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = encrypted(k.t, k.issuer.key, "sesame") }},
	{"root kept under a passphrase", rootKeyEncrypted, RootKeyFile, func(k *kit) { k.files[RootKeyFile] = encrypted(k.t, k.root.key, "sesame") }},
	{"passphrase file forgotten", passphraseUnreadable, IssuerKeyFile, func(k *kit) {
		k.files[IssuerKeyFile] = encrypted(k.t, k.issuer.key, "sesame")
		k.opts.PassphraseFile = "/nonexistent/passphrase"
	}},
	{"another passphrase", passphraseWrong, IssuerKeyFile, func(k *kit) {
		k.files[IssuerKeyFile] = encrypted(k.t, k.issuer.key, "sesame")
		k.passphrase("open")
	}},
	{"key of another CA", foreignKey, IssuerKeyFile, func(k *kit) { k.files[IssuerKeyFile] = keyPEM(k.t, k.another().key) }},
	{"root key of another CA", rootKeyOfAnother, RootKeyFile, func(k *kit) { k.files[RootKeyFile] = keyPEM(k.t, k.another().key) }},
	{"P-521", costlyKey, IssuerFile, func(k *kit) { k.issue(newKey(k.t, elliptic.P521()), nil) }},
	{"P-224", shortKey, IssuerFile, func(k *kit) { k.issue(newKey(k.t, elliptic.P224()), nil) }},
	{"RSA-1024", shortKey, IssuerFile, func(k *kit) {
		key, err := rsa.GenerateKey(rand.Reader, 1024)
		if err != nil {
			k.t.Fatal(err)
		}
		k.issue(key, nil)
	}},

	{"leaf as issuer", notAnAuthority, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) {
			c.IsCA, c.MaxPathLenZero, c.KeyUsage = false, false, x509.KeyUsageDigitalSignature
		})
	}},
	{"openssl without -extfile", noConstraints, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid, c.KeyUsage = false, false, 0 })
	}},
	{"issuer for CRLs", noCertSign, IssuerFile, func(k *kit) { k.issue(nil, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }) }},
	{"SHA-1", weakSignature, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) { c.SignatureAlgorithm = x509.ECDSAWithSHA1 })
	}},
	{"issuer expired", expired, IssuerFile, func(k *kit) { k.issue(nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }) }},
	{"root expired", expired, RootFile, func(k *kit) {
		k.reroot(func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = c.NotBefore.Add(-time.Hour), time.Now().Add(-time.Second)
		})
		k.issue(nil, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(time.Hour) })
	}},
	{"issuer of tomorrow", notYetValid, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) })
	}},
	{"of another mesh", foreignDomain, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) { c.URIs[0].Host = "example.org" })
	}},
	{"an extension of somebody's", criticalExtension, IssuerFile, func(k *kit) {
		k.issue(nil, extension(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}, true, []byte{5, 0}))
	}},
	{"for servers only", narrowUsage, RootFile, func(k *kit) {
		k.reroot(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })
	}},
	{"serial number 1", weakSerial, IssuerFile, func(k *kit) {
		template := authorityFor("issuer", time.Hour, 0)
		template.SerialNumber = big.NewInt(1)
		k.issuer = raw(k.t, template, k.root, newKey(k.t, elliptic.P256()))
		k.write(k.issuer)
	}},
	{"no path length", noPathLength, IssuerFile, func(k *kit) { k.issue(nil, func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = -1, false }) }},
	{"issuer of an hour for leaves of one", shortLife, IssuerFile, func(k *kit) { k.opts.LeafTTL = time.Hour }},
	{"issuer outlives the root", outlivesParent, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) { c.NotAfter = c.NotAfter.Add(48 * time.Hour) })
	}},

	{"root of another CA", notOfARoot, IssuerFile, func(k *kit) {
		k.files[RootFile] = pemOf(k.another())
		delete(k.files, RootKeyFile)
	}},
	{"chain upside down", issuerNotFirst, IssuerFile, func(k *kit) {
		issuer := newParty(k.t, k.issuer, nil, authorityFor("lower", time.Hour, 0))
		k.files[IssuerFile], k.files[IssuerKeyFile] = pemOf(k.issuer, issuer), keyPEM(k.t, issuer.key)
	}},
	{"chain with a stranger in it", brokenChain, IssuerFile, func(k *kit) {
		stranger := newParty(k.t, k.another(), nil, authorityFor("stranger", time.Hour, 0))
		k.write(k.issuer, stranger)
	}},
	{"one certificate for all", issuerIsRoot, IssuerFile, func(k *kit) {
		k.files[IssuerFile], k.files[IssuerKeyFile] = k.files[RootFile], k.files[RootKeyFile]
	}},
	{"root in the chain only", rootInChain, IssuerFile, func(k *kit) {
		k.write(k.issuer, k.root)
		k.files[RootFile] = pemOf(k.another())
		delete(k.files, RootKeyFile)
	}},
	{"root allows no issuer", pathTooLong, RootFile, func(k *kit) {
		k.reroot(func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true })
	}},
	{"one name", takenSelfSigned, IssuerFile, func(k *kit) { k.issue(nil, func(c *x509.Certificate) { c.Subject = k.root.Subject }) }},
	{"key identifier of a former root", otherKeyID, IssuerFile, func(k *kit) {
		former := *k.root.Certificate
		former.SubjectKeyId = []byte("former")
		k.issuer = raw(k.t, serialised(authorityFor("issuer", time.Hour, 0)), &party{&former, k.root.key}, newKey(k.t, elliptic.P256()))
		k.write(k.issuer)
	}},
	{"serial number of a former root", otherSerialID, IssuerFile, func(k *kit) {
		value, err := asn1.Marshal(keyID{Serial: big.NewInt(7)})
		if err != nil {
			k.t.Fatal(err)
		}
		k.issue(nil, extension(oidKeyID, false, value))
	}},
	{"a bit of the root flipped", brokenRoot, RootFile, func(k *kit) {
		der := bytes.Clone(k.root.Raw)
		der[len(der)-1] ^= 1
		k.files[RootFile] = block("CERTIFICATE", der)
	}},
	{"an intermediate as the anchor", rootIsSigned, RootFile, func(k *kit) {
		k.root = newParty(k.t, k.another(), nil, authorityFor("root", 2*time.Hour, 1))
		k.files[RootKeyFile] = keyPEM(k.t, k.root.key)
		k.issue(nil, nil)
	}},
	{"root added twice", rootTwice, RootFile, func(k *kit) { k.files[RootFile] = pemOf(k.root, k.root) }},
	{"two roots of one name", rootsOfOneName, RootFile, func(k *kit) {
		k.files[RootFile] = pemOf(k.root, newParty(k.t, nil, nil, authorityFor("root", 2*time.Hour, 1)))
	}},
	{"a former root that has expired", spareExpired, RootFile, func(k *kit) {
		former := authorityFor("former", 2*time.Hour, 1)
		former.NotBefore, former.NotAfter = former.NotBefore.Add(-time.Hour), time.Now().Add(-time.Minute)
		k.files[RootFile] = pemOf(newParty(k.t, nil, nil, former), k.root)
	}},
	{"names of another company", nameConstraints, IssuerFile, func(k *kit) {
		k.issue(nil, func(c *x509.Certificate) {
			constrain(c, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"example.org"} })
		})
	}},
	{"a policy that no leaf has", unusable, IssuerFile, func(k *kit) {
		k.issue(nil, extension(asn1.ObjectIdentifier{2, 5, 29, 36}, true, []byte{0x30, 3, 0x80, 1, 0}))
	}},
	{"root renamed", otherParentName, IssuerFile, func(k *kit) {
		k.files[RootFile] = pemOf(newParty(k.t, nil, k.root.key, authorityFor("renamed", 2*time.Hour, 1)))
	}},
	{"seven intermediates", chainTooLong, IssuerFile, func(k *kit) {
		k.reroot(func(c *x509.Certificate) { c.MaxPathLen = 20 })
		chain := []*party{k.root}
		for i := range maxAbove + 1 {
			chain = append(chain, newParty(k.t, chain[i], nil, authorityFor(fmt.Sprint("below ", i), time.Hour, maxAbove-i)))
		}
		slices.Reverse(chain)
		k.issuer = chain[0]
		k.write(chain[:len(chain)-1]...)
	}},
	{"roots of the whole Internet", bundleTooLong, RootFile, func(k *kit) {
		roots := []*party{k.root}
		for i := range maxAnchors {
			roots = append(roots, newParty(k.t, nil, k.root.key, authorityFor(fmt.Sprint("root ", i), 2*time.Hour, 1)))
		}
		k.files[RootFile] = pemOf(roots...)
	}},
}

func serialised(template *x509.Certificate) *x509.Certificate {
	template.SerialNumber = new(big.Int).Lsh(big.NewInt(1), 100)
	return template
}

func TestAGoodCAHasNoDefect(t *testing.T) {
	k := newKit(t)
	if defects := Lint(k.files, k.opts); defects != nil {
		t.Error(defects)
	}
	if defects := Lint(k.files, Options{}); defects != nil {
		t.Errorf("without options: %v", defects)
	}
}

// A000-13, N-15: each defect is found alone, by its own code and in words of its own;
// and what Lint calls an error is what Take refuses.
func TestEachDefectIsExplained(t *testing.T) {
	texts := map[string]string{}
	for _, test := range broken {
		t.Run(test.name, func(t *testing.T) {
			k := newKit(t)
			test.do(k)
			defects := Lint(k.files, k.opts)
			if len(defects) != 1 || defects[0].Code != test.code {
				t.Fatalf("%v, want one %s", defects, test.code)
			}
			d := defects[0]
			if d.File != test.file || test.file != "" && !strings.Contains(d.What, test.file) {
				t.Errorf("%q of %q, want of %s", d.What, d.File, test.file)
			}
			if other, twice := texts[d.What]; twice {
				t.Errorf("%s says the same: %q", other, d.What)
			}
			texts[d.What] = test.name
			if d.Follows == "" || d.Mend == "" || strings.Contains(d.Mend, "FILE") || strings.Contains(d.Follows+d.Mend, "ROOTS") {
				t.Errorf("follows %q, mend %q", d.Follows, d.Mend)
			}
			c, err := New(k.opts)
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Take(k.files)
			if refused := err != nil; refused != (d.Severity == Error) {
				t.Errorf("%s is an %v, and Take says %v", d.Code, d.Severity, err)
			}
			if err == nil && !slices.Equal(c.Warnings(), defects) {
				t.Errorf("in force with the warnings %v", c.Warnings())
			}
		})
	}
}

func TestEveryRuleHasABrokenCA(t *testing.T) {
	seen := map[string]bool{writableKey: true, readableKey: true, writableCert: true, openDirectory: true} // below
	for _, test := range broken {
		seen[test.code] = true
	}
	for code := range rules {
		if !seen[code] {
			t.Errorf("no broken CA for %s", code)
		}
	}
	if len(rules) < 25 {
		t.Errorf("%d rules", len(rules))
	}
}

// The table in the documentation has each code, with its severity, and no other.
func TestTheDocumentationHasEveryCode(t *testing.T) {
	text, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]string{}
	for _, row := range regexp.MustCompile(`(?m)^\| (CA\d{3}) \| ([EW]) \|`).FindAllStringSubmatch(string(text), -1) {
		listed[row[1]] = row[2]
	}
	want := map[string]string{}
	for code, rule := range rules {
		want[code] = strings.ToUpper(rule.severity.String()[:1])
	}
	if !maps.Equal(listed, want) {
		t.Errorf("listed %v, want %v", listed, want)
	}
}

func TestNoDefectQuotesAKey(t *testing.T) {
	for _, test := range broken {
		k := newKit(t)
		test.do(k)
		for _, d := range Lint(k.files, k.opts) {
			for name, text := range k.files {
				for line := range strings.Lines(string(text)) {
					if line = strings.TrimSpace(line); len(line) > 30 && strings.HasSuffix(name, ".key") && strings.Contains(d.Error(), line) {
						t.Errorf("%s: %q", test.name, d.Error())
					}
				}
			}
		}
	}
}

func TestModesThatOpenACAToOthersAreNamed(t *testing.T) {
	for _, test := range []struct {
		name string
		mode os.FileMode
		want string // code
	}{
		{IssuerKeyFile, 0o600, ""}, {IssuerKeyFile, 0o640, ""},
		{IssuerKeyFile, 0o666, writableKey}, {RootKeyFile, 0o602, writableKey},
		{RootKeyFile, 0o644, readableKey}, {RootFile, 0o644, ""}, {RootFile, 0o666, writableCert}, {IssuerFile, 0o646, writableCert},
		{"", 0o777, openDirectory}, {"", 0o777 | os.ModeSticky, ""}, {"", 0o755, ""},
	} {
		dir := newDir(t)
		path := filepath.Join(dir, test.name)
		if err := os.Chmod(path, test.mode); err != nil {
			t.Fatal(err)
		}
		defects, err := LintModes(dir)
		if err != nil {
			t.Fatal(err)
		}
		if test.want == "" && defects != nil || test.want != "" && (len(defects) != 1 || defects[0].Code != test.want) {
			t.Errorf("%s %v: %v, want %q", test.name, test.mode, defects, test.want)
		}
		if test.want != "" && (!strings.Contains(defects[0].What, filepath.Base(path)) || !strings.Contains(defects[0].Mend, "chmod")) {
			t.Errorf("%q, %q", defects[0].What, defects[0].Mend)
		}
	}
	if _, err := LintModes("/nonexistent"); err == nil {
		t.Error("looked at nothing")
	}
}
