// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

var (
	td  = spiffeid.RequireTrustDomainFromString("cluster.local")
	web = spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web")
)

func openCA(t testing.TB, opts Options) *CA {
	t.Helper()
	if opts.TrustDomain.IsZero() {
		opts.TrustDomain = td
	}
	c, err := Open(t.TempDir(), opts)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB, curve elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t testing.TB, key crypto.Signer, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func plainCSR(t testing.TB) []byte {
	t.Helper()
	return newCSR(t, newKey(t, elliptic.P256()), &x509.CertificateRequest{})
}

func sign(t testing.TB, c *CA, csr []byte, ttl time.Duration) *x509.Certificate {
	t.Helper()
	chain, err := c.Sign(csr, web, ttl)
	if err != nil {
		t.Fatal(err)
	}
	if len(chain) != 2 || !chain[1].Equal(c.Issuer()) {
		t.Fatalf("chain of %d certificates, want leaf and issuer", len(chain))
	}
	return chain[0]
}

func verify(c *CA, leaf *x509.Certificate, usage x509.ExtKeyUsage) error {
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(c.Roots()[0])
	intermediates.AddCert(c.Issuer())
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{usage}})
	return err
}

func TestLeafNamesOneWorkloadAndNothingElse(t *testing.T) {
	c := openCA(t, Options{})
	key := newKey(t, elliptic.P256())
	leaf := sign(t, c, newCSR(t, key, &x509.CertificateRequest{}), time.Hour)

	if len(leaf.Subject.Names) != 0 {
		t.Errorf("subject %v, want none", leaf.Subject)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() {
		t.Errorf("URI SANs %v, want %v", leaf.URIs, web)
	}
	if n := len(leaf.DNSNames) + len(leaf.IPAddresses) + len(leaf.EmailAddresses); n != 0 {
		t.Errorf("%d other SANs", n)
	}
	var san []pkix.Extension
	for _, ext := range leaf.Extensions {
		if ext.Id.String() == "2.5.29.17" {
			san = append(san, ext)
		}
	}
	if len(san) != 1 || !san[0].Critical {
		t.Errorf("SAN extensions %v, want one that is critical", san)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("the key is not the CSR's")
	}
	if leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("CA %v, key usage %b", leaf.IsCA, leaf.KeyUsage)
	}
	for _, usage := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if err := verify(c, leaf, usage); err != nil {
			t.Errorf("usage %v: %v", usage, err)
		}
	}
	if err := verify(c, leaf, x509.ExtKeyUsageCodeSigning); err == nil {
		t.Error("the leaf signs code")
	}
	if id, err := x509svid.IDFromCert(leaf); err != nil || id != web {
		t.Errorf("go-spiffe reads %v, %v", id, err)
	}
}

func TestNothingButTheKeyIsTakenFromTheCSR(t *testing.T) {
	c := openCA(t, Options{})
	other, _ := url.Parse("spiffe://cluster.local/ns/kube-system/sa/admin")
	csr := newCSR(t, newKey(t, elliptic.P256()), &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}},
		DNSNames:    []string{"kubernetes.default"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		URIs:        []*url.URL{other},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}, // CA:true
		},
	})
	leaf := sign(t, c, csr, time.Hour)
	plain := sign(t, c, plainCSR(t), time.Hour)
	if len(leaf.Extensions) != len(plain.Extensions) || leaf.IsCA || len(leaf.Subject.Names) != 0 {
		t.Errorf("extensions %v, subject %v", leaf.Extensions, leaf.Subject)
	}
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() || len(leaf.DNSNames)+len(leaf.IPAddresses) != 0 {
		t.Errorf("SANs %v %v %v", leaf.URIs, leaf.DNSNames, leaf.IPAddresses)
	}
}

func TestLifetimeIsBoundedAndEndsWithTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openCA(t, Options{IssuerTTL: 10 * time.Hour})
		for _, test := range []struct{ ask, want time.Duration }{
			{0, MinTTL}, {-time.Hour, MinTTL}, {time.Second, MinTTL}, {time.Minute, time.Minute}, {time.Hour, time.Hour},
			{24 * time.Hour, 10 * time.Hour}, {1000 * time.Hour, 10 * time.Hour},
		} {
			leaf := sign(t, c, plainCSR(t), test.ask)
			if got := time.Until(leaf.NotAfter); got != test.want {
				t.Errorf("asked for %v: valid for %v, want %v", test.ask, got, test.want)
			}
			if leaf.NotAfter.After(c.Issuer().NotAfter) {
				t.Errorf("asked for %v: outlives the issuer", test.ask)
			}
			// Istio's ztunnel renews here: it must not be due at once.
			if middle := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2); time.Until(middle) < test.want/4 {
				t.Errorf("asked for %v: the middle of the validity is %v away", test.ask, time.Until(middle))
			}
		}
		if leaf := sign(t, openCA(t, Options{}), plainCSR(t), 1000*time.Hour); time.Until(leaf.NotAfter) != MaxTTL {
			t.Errorf("valid for %v, want %v", time.Until(leaf.NotAfter), MaxTTL)
		}
	})
}

func TestExpiringIssuerSignsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openCA(t, Options{IssuerTTL: time.Hour})
		time.Sleep(time.Hour - MinTTL) // bubble time
		sign(t, c, plainCSR(t), time.Hour)
		time.Sleep(time.Second)
		if _, err := c.Sign(plainCSR(t), web, time.Hour); !errors.Is(err, ErrExpired) {
			t.Errorf("Sign: %v, want %v", err, ErrExpired)
		}
		if _, err := c.ServerCertificate("ca")(nil); !errors.Is(err, ErrExpired) {
			t.Errorf("ServerCertificate: %v, want %v", err, ErrExpired)
		}
	})
}

func TestSerialsAreRandomAndOf128Bits(t *testing.T) {
	c := openCA(t, Options{})
	seen := make(map[string]bool)
	longest := 0
	for range 64 {
		n := sign(t, c, plainCSR(t), time.Hour).SerialNumber
		if n.Sign() <= 0 || n.BitLen() > 129 {
			t.Errorf("serial %x", n)
		}
		longest = max(longest, n.BitLen())
		if seen[n.String()] {
			t.Errorf("serial %x twice", n)
		}
		seen[n.String()] = true
	}
	if longest < 120 {
		t.Errorf("the longest of 64 serials has %d bits", longest)
	}
}

func TestOnlyWorkloadsOfTheTrustDomainAreSigned(t *testing.T) {
	c := openCA(t, Options{})
	for _, s := range []string{
		"spiffe://example.org/ns/shop/sa/web", "spiffe://cluster.local", "spiffe://cluster.local/ns/shop", "spiffe://cluster.local/ns/Shop/sa/web",
	} {
		if _, err := c.Sign(plainCSR(t), spiffeid.RequireFromString(s), time.Hour); err == nil {
			t.Errorf("signed %v", s)
		}
	}
	if _, err := c.Sign(plainCSR(t), spiffeid.ID{}, time.Hour); err == nil {
		t.Error("signed the zero ID")
	}
}

// GO-2026-4399, CVE-2026-62290: a CSR is bounded before it is decoded.
func TestCSRMustProvePossessionOfAnAllowedKey(t *testing.T) {
	c := openCA(t, Options{})
	good := plainCSR(t)
	forged := append([]byte(nil), good...)
	forged[len(forged)-1] ^= 1
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	inPEM := func(kind string, der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	}
	for _, test := range []struct {
		name string
		csr  []byte
		ok   bool
	}{
		{"P-256 DER", good, true},
		{"P-256 PEM", inPEM("CERTIFICATE REQUEST", good), true},
		{"old PEM type", inPEM("NEW CERTIFICATE REQUEST", good), true},
		{"P-384", newCSR(t, newKey(t, elliptic.P384()), &x509.CertificateRequest{}), true},
		{"P-224", newCSR(t, newKey(t, elliptic.P224()), &x509.CertificateRequest{}), false},
		{"P-521", newCSR(t, newKey(t, elliptic.P521()), &x509.CertificateRequest{}), false},
		{"Ed25519", newCSR(t, edKey, &x509.CertificateRequest{}), true},
		{"RSA", newCSR(t, rsaKey, &x509.CertificateRequest{}), false},
		{"bad signature", forged, false},
		{"trailing DER", append(append([]byte(nil), good...), 0), false},
		{"two PEM blocks", append(inPEM("CERTIFICATE REQUEST", good), inPEM("CERTIFICATE REQUEST", good)...), false},
		{"wrong PEM type", inPEM("CERTIFICATE", good), false},
		{"broken PEM", []byte("-----BEGIN CERTIFICATE REQUEST-----\nAA"), false},
		{"too long", make([]byte, maxCSR+1), false},
		{"empty", nil, false},
	} {
		_, err := c.Sign(test.csr, web, time.Hour)
		if (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
		if err != nil && !strings.Contains(err.Error(), "CSR") {
			t.Errorf("%s: %q does not name the CSR", test.name, err)
		}
	}
}

func TestServerCertificateIsOfTheOwnIssuerAndRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := openCA(t, Options{})
		get := c.ServerCertificate("culvert-identity.culvert-system.svc", "10.0.0.1")
		first, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"culvert-identity.culvert-system.svc", "10.0.0.1"} {
			if err := first.Leaf.VerifyHostname(name); err != nil {
				t.Error(err)
			}
		}
		if err := verify(c, first.Leaf, x509.ExtKeyUsageServerAuth); err != nil {
			t.Error(err)
		}
		if err := verify(c, first.Leaf, x509.ExtKeyUsageClientAuth); err == nil {
			t.Error("the server's certificate is one for clients too")
		}
		if len(first.Leaf.URIs) != 0 {
			t.Errorf("the server is the workload %v", first.Leaf.URIs)
		}
		time.Sleep((MaxTTL-maxBackdate)/2 - time.Second) // bubble time
		if again, _ := get(nil); again != first {
			t.Error("renewed before half of its life")
		}
		time.Sleep(time.Second)
		second, err := get(nil)
		if err != nil || second == first || first.PrivateKey == second.PrivateKey {
			t.Errorf("not renewed at half of its life: %v", err)
		}
	})
}

// Of a certificate the wall clock alone decides, and that may go anywhere: here the
// certificate's times go instead.
func TestServerCertificateIsRenewedWhereTheClockIsSet(t *testing.T) {
	get := openCA(t, Options{}).ServerCertificate("ca")
	for _, jump := range []time.Duration{MaxTTL + time.Hour, MaxTTL/2 + time.Hour, -time.Hour} {
		before, err := get(nil)
		if err != nil {
			t.Fatal(err)
		}
		before.Leaf.NotBefore, before.Leaf.NotAfter = before.Leaf.NotBefore.Add(-jump), before.Leaf.NotAfter.Add(-jump)
		if after, err := get(nil); err != nil || after == before {
			t.Errorf("the clock went by %v: the same certificate, %v", jump, err)
		}
	}
}

func TestServerWithoutANameHasNoCertificate(t *testing.T) {
	if _, err := openCA(t, Options{}).ServerCertificate()(nil); err == nil {
		t.Error("a certificate for nothing")
	}
}

func FuzzCSR(f *testing.F) {
	der := plainCSR(f)
	f.Add(der)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add([]byte{0x30, 0x80})
	f.Add(newCSR(f, newEd25519(f), &x509.CertificateRequest{Subject: pkix.Name{CommonName: "a"}, DNSNames: []string{"b"}}))
	f.Add(newCSR(f, newKey(f, elliptic.P384()), &x509.CertificateRequest{URIs: []*url.URL{web.URL()}}))
	c := openCA(f, Options{})
	f.Fuzz(func(t *testing.T, csr []byte) {
		chain, err := c.Sign(csr, web, time.Hour)
		if err != nil {
			return
		}
		// Ours does not read what the sender wishes. What crypto/x509 reads too, it reads alike.
		text, _ := csrDER(csr)
		if other, err := x509.ParseCertificateRequest(text); err == nil {
			if err := other.CheckSignature(); err != nil {
				t.Fatalf("signed for %x: %v", csr, err)
			}
			if key := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !key.Equal(other.PublicKey) {
				t.Fatalf("another key was certified for %x", csr)
			}
		}
		if leaf := chain[0]; leaf.IsCA || len(leaf.URIs) != 1 || leaf.URIs[0].String() != web.String() || len(leaf.Subject.Names) != 0 {
			t.Fatalf("signed %v %v for the CSR %x", leaf.Subject, leaf.URIs, csr)
		}
	})
}

func BenchmarkSign(b *testing.B) {
	c, csr := openCA(b, Options{}), plainCSR(b)
	for b.Loop() {
		if _, err := c.Sign(csr, web, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}
