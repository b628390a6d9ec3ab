// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// issuerOf is an issuer of a key, under a root of P-256.
func issuerOf(t testing.TB, key crypto.Signer, change func(*x509.Certificate)) (root, issuer *party) {
	t.Helper()
	root = newParty(t, nil, nil, authorityFor("root", 100*365*24*time.Hour, 1))
	template := authorityFor("issuer", 90*365*24*time.Hour, 0)
	if change != nil {
		change(template)
	}
	return root, newParty(t, root, key, template)
}

// byCryptoX509 is what crypto/x509 makes of the same particulars: what is signed.
func byCryptoX509(t testing.TB, issuer *party, p particulars) []byte {
	t.Helper()
	text, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber:          p.serial,
		Subject:               pkix.Name{SerialNumber: p.process},
		NotBefore:             p.notBefore,
		NotAfter:              p.notAfter,
		URIs:                  []*url.URL{p.id.URL()},
		DNSNames:              p.dnsNames,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}, issuer.Certificate, p.key, issuer.key)
	if err != nil {
		t.Fatal(err)
	}
	return parsed(t, text).RawTBSCertificate
}

func parsed(t testing.TB, text []byte) *x509.Certificate {
	t.Helper()
	cert, err := x509.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// sameAsCryptoX509 has a form make a leaf, and asks crypto/x509 for the same and for the
// signature.
func sameAsCryptoX509(t testing.TB, issuer *party, p particulars) *x509.Certificate {
	t.Helper()
	f := newForm(issuer.Certificate, issuer.key)
	if f == nil {
		t.Fatal("the issuer has no form")
	}
	text, err := f.sign(p)
	if err != nil {
		t.Fatal(err)
	}
	leaf := parsed(t, text)
	if want := byCryptoX509(t, issuer, p); !bytes.Equal(leaf.RawTBSCertificate, want) {
		t.Errorf("%+v:\nours        %x\ncrypto/x509 %x", p, leaf.RawTBSCertificate, want)
	}
	if err := leaf.CheckSignatureFrom(issuer.Certificate); err != nil {
		t.Errorf("%+v: %v", p, err)
	}
	return leaf
}

func newEd25519(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// RFC 5280: 4.1.2.2 on serial numbers, 4.1.2.5 on years from 2050 on, 4.2.1.6 on the
// name beside an empty subject.
func TestALeafIsByteForByteThatOfCryptoX509(t *testing.T) {
	t.Parallel()
	date := func(year int) time.Time { return time.Date(year, 12, 31, 23, 59, 59, 0, time.UTC) }
	good := particulars{big.NewInt(1), web, nil, "", newKey(t, elliptic.P256()).Public(), date(2026), date(2027)}
	for name, change := range map[string]func(*particulars){
		"a pod's":                      func(*particulars) {},
		"a process's":                  func(p *particulars) { p.process = "k3v9" },
		"a process of a name in UTF-8": func(p *particulars) { p.process = "größer*" },
		"a pod's with a DNS name":      func(p *particulars) { p.dnsNames = []string{"web-1.shop.pod"} },
		"a process's with two DNS names": func(p *particulars) {
			p.process, p.dnsNames = "k3v9", []string{"web.shop.svc", "web.shop.svc.cluster.local"}
		},
		"as many names as there may be": func(p *particulars) {
			for n := range identity.MaxDNSNames {
				p.dnsNames = append(p.dnsNames, fmt.Sprintf("%s%d.shop.svc", strings.Repeat("a", 60), n))
			}
		},
		"serial with its first bit set":  func(p *particulars) { p.serial = big.NewInt(0x80) },
		"serial of two bytes":            func(p *particulars) { p.serial = big.NewInt(0x7fff) },
		"the largest serial":             func(p *particulars) { p.serial = new(big.Int).Lsh(big.NewInt(1), 128) },
		"a key of P-384":                 func(p *particulars) { p.key = newKey(t, elliptic.P384()).Public() },
		"a key of Ed25519":               func(p *particulars) { p.key = newEd25519(t).Public() },
		"the last second of two digits":  func(p *particulars) { p.notAfter = date(2049) },
		"the first second of four":       func(p *particulars) { p.notBefore, p.notAfter = date(2049), date(2049).Add(time.Second) },
		"after 2049":                     func(p *particulars) { p.notBefore, p.notAfter = date(2050), date(2076) },
		"times of another zone":          func(p *particulars) { p.notAfter = p.notAfter.In(time.FixedZone("", 3600)) },
		"an ID whose length takes bytes": func(p *particulars) { p.id = spiffeid.RequireFromPath(td, "/ns/shop/sa/"+strings.Repeat("a", 400)) },
	} {
		t.Run(name, func(t *testing.T) {
			for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384()} {
				_, issuer := issuerOf(t, newKey(t, curve), nil)
				p := good
				change(&p)
				leaf := sameAsCryptoX509(t, issuer, p)
				if n := len(leaf.SerialNumber.Bytes()); leaf.SerialNumber.Sign() != 1 || n > 20 {
					t.Errorf("serial %x of %d bytes", leaf.SerialNumber, n)
				}
				if !leaf.NotAfter.Equal(p.notAfter) || ProcessOf(leaf) != p.process {
					t.Errorf("until %v of %q, want %v of %q", leaf.NotAfter, ProcessOf(leaf), p.notAfter, p.process)
				}
			}
		})
	}
	for name, change := range map[string]func(*x509.Certificate){
		"a long subject":         func(c *x509.Certificate) { c.Subject.Organization = []string{strings.Repeat("a", 300), "größer"} },
		"a long key identifier":  func(c *x509.Certificate) { c.SubjectKeyId = bytes.Repeat([]byte{0xff}, 200) },
		"a short key identifier": func(c *x509.Certificate) { c.SubjectKeyId = []byte{0} },
	} {
		t.Run(name, func(t *testing.T) {
			_, issuer := issuerOf(t, nil, change)
			sameAsCryptoX509(t, issuer, good)
		})
	}
	t.Run("an issuer without a key identifier", func(t *testing.T) {
		_, issuer := issuerOf(t, nil, nil)
		bare := *issuer.Certificate
		bare.SubjectKeyId = nil
		sameAsCryptoX509(t, &party{&bare, issuer.key}, good)
	})
}

func FuzzLeaf(f *testing.F) {
	_, issuer := issuerOf(f, nil, nil)
	keys := []crypto.PublicKey{newKey(f, elliptic.P256()).Public(), newKey(f, elliptic.P384()).Public(), newEd25519(f).Public()}
	f.Add([]byte{1}, "shop", "web", "", int64(0), int64(1<<31), uint8(0))
	f.Add(bytes.Repeat([]byte{0xff}, 16), "a", "b.c", "k3v9", int64(2_524_607_999), int64(2_524_608_000), uint8(1))
	f.Add([]byte{0x80}, "shop", "web", "ü", int64(-1), int64(253_402_300_799), uint8(2))
	f.Fuzz(func(t *testing.T, serial []byte, namespace, account, process string, notBefore, notAfter int64, key uint8) {
		id, err := spiffeid.FromSegments(td, "ns", namespace, "sa", account)
		if err != nil || len(serial) > 20 {
			return
		}
		p := particulars{new(big.Int).SetBytes(serial), id, nil, process, keys[int(key)%len(keys)], time.Unix(notBefore, 0), time.Unix(notAfter, 0)}
		template := &x509.Certificate{SerialNumber: p.serial, NotBefore: p.notBefore, NotAfter: p.notAfter, Subject: subjectOf(process)}
		text, err := x509.CreateCertificate(rand.Reader, template, issuer.Certificate, p.key, issuer.key)
		if err == nil {
			_, err = x509.ParseCertificate(text)
		}
		if err != nil {
			return // serials, years and names that crypto/x509 does not write, or not read
		}
		sameAsCryptoX509(t, issuer, p)
	})
}

// What x509.CreateCertificate would refuse, a form refuses too.
func TestAFormCertifiesNoOtherKeys(t *testing.T) {
	t.Parallel()
	outside := newKey(t, elliptic.P256()).PublicKey
	outside.Y = new(big.Int).Add(outside.Y, big.NewInt(1)) //lint:ignore SA1019 a key that no parser makes
	_, issuer := issuerOf(t, nil, nil)
	form := newForm(issuer.Certificate, issuer.key)
	for name, key := range map[string]crypto.PublicKey{
		"RSA":                &rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 2047), E: 65537},
		"P-224":              newKey(t, elliptic.P224()).Public(),
		"P-521":              newKey(t, elliptic.P521()).Public(),
		"not on the curve":   &outside,
		"no point":           &ecdsa.PublicKey{Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)}, //lint:ignore SA1019 as above
		"Ed25519 of 31 byte": newEd25519(t).Public().(ed25519.PublicKey)[:31],
		"none":               nil,
	} {
		p := particulars{big.NewInt(1), web, nil, "", key, time.Now(), time.Now().Add(time.Hour)}
		if _, err := form.sign(p); err == nil {
			t.Errorf("%s: certified", name)
		}
		if _, err := EncodeKey(key); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestAKeyIsEncodedAsByCryptoX509(t *testing.T) {
	t.Parallel()
	for _, key := range []crypto.PublicKey{newKey(t, elliptic.P256()).Public(), newKey(t, elliptic.P384()).Public(), newEd25519(t).Public()} {
		got, err := EncodeKey(key)
		if err != nil {
			t.Fatal(err)
		}
		if want, _ := x509.MarshalPKIXPublicKey(key); !bytes.Equal(got, want) {
			t.Errorf("%T:\nours        %x\ncrypto/x509 %x", key, got, want)
		}
	}
}

// A signer that is not this process's may misbehave: crypto/x509 verifies what it signs.
// A key that is not the issuer's signs nothing.
func TestOnlyTheIssuersOwnKeyHasAForm(t *testing.T) {
	t.Parallel()
	_, issuer := issuerOf(t, nil, nil)
	if newForm(issuer.Certificate, issuer.key) == nil {
		t.Error("the issuer's own key has no form")
	}
	for name, signer := range map[string]crypto.Signer{
		"another key":        newKey(t, elliptic.P256()),
		"a key elsewhere":    struct{ crypto.Signer }{issuer.key},
		"another kind's key": newEd25519(t),
	} {
		if newForm(issuer.Certificate, signer) != nil {
			t.Errorf("%s has a form", name)
		}
	}
	a := &authority{anchor: issuer.Certificate, chain: []*x509.Certificate{issuer.Certificate}, key: newKey(t, elliptic.P256())}
	a.form = newForm(a.issuer(), a.key)
	if _, err := a.workload(web, "", newKey(t, elliptic.P256()).Public(), time.Hour, nil); err == nil {
		t.Error("another key signed")
	}
	a.key = faulty{issuer.key}
	if _, err := a.workload(web, "", newKey(t, elliptic.P256()).Public(), time.Hour, nil); err == nil {
		t.Error("a wrong signature was given out")
	}
}

// faulty is a signer whose signatures are wrong.
type faulty struct{ crypto.Signer }

// Sign signs another digest.
func (f faulty) Sign(random io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	digest[0] ^= 1
	return f.Signer.Sign(random, digest, opts)
}

// Issuers of every kind that is accepted, by a form or by crypto/x509, sign leaves for
// keys of every kind; crypto/x509 and OpenSSL verify them.
func TestIssuersOfEveryKindSignWhatVerifiersAccept(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{
		"P-256": newKey(t, elliptic.P256()), "P-384": newKey(t, elliptic.P384()), "Ed25519": newEd25519(t), "RSA": rsaKey,
	} {
		root, issuer := issuerOf(t, key, nil)
		c := taken(t, Files{RootFile: pemOf(root), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, key)})
		dir := t.TempDir()
		names := []string{"root", "issuer"}
		contents := [][]byte{pemOf(root), pemOf(issuer)}
		for _, key := range []crypto.Signer{newKey(t, elliptic.P256()), newKey(t, elliptic.P384()), newEd25519(t)} {
			chain, err := c.Sign(newCSR(t, key, &x509.CertificateRequest{}), web, time.Hour)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if err := verify(c, chain[0], x509.ExtKeyUsageServerAuth); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			names, contents = append(names, "leaf"+chain[0].SerialNumber.Text(16)), append(contents, encodeCert(chain[0]))
		}
		for i, file := range names {
			if err := os.WriteFile(filepath.Join(dir, file), contents[i], 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := "verify -x509_strict -no-CApath -no-CAstore -CAfile root -untrusted issuer -purpose sslserver " + strings.Join(names[2:], " ")
		if out, err := opensslIn(t, dir, args); err != nil {
			t.Errorf("%s: OpenSSL: %v: %s", name, err, out)
		}
	}
}

// Of a leaf that was not parsed, the CA says what stands in it.
func TestIssuedSaysWhatIsInTheLeaf(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]crypto.Signer{"by a form": newKey(t, elliptic.P256()), "by crypto/x509": newEd25519(t)} {
		root, issuer := issuerOf(t, key, nil)
		c := taken(t, Files{RootFile: pemOf(root), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, key)})
		issued, err := c.Issue(newKey(t, elliptic.P256()).Public(), web, "k3v9", time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		leaf := parsed(t, issued.Leaf)
		if leaf.SerialNumber.Cmp(issued.Serial) != 0 || leaf.NotBefore != issued.NotBefore || leaf.NotAfter != issued.NotAfter || ProcessOf(leaf) != "k3v9" {
			t.Errorf("%s: %x from %v to %v, and the leaf is %x from %v to %v", name, issued.Serial, issued.NotBefore, issued.NotAfter,
				leaf.SerialNumber, leaf.NotBefore, leaf.NotAfter)
		}
		if len(issued.Above) != 1 || !issued.Above[0].Equal(issuer.Certificate) {
			t.Errorf("%s: not the issuer is above", name)
		}
	}
}
