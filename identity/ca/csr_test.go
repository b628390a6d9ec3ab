// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// csrParts is a CSR for a test to spoil.
type csrParts struct {
	Signed    asn1.RawValue
	Algorithm pkix.AlgorithmIdentifier
	Signature asn1.BitString
}

// infoParts is what is signed of it.
type infoParts struct {
	Version    int
	Subject    asn1.RawValue
	Key        asn1.RawValue
	Attributes asn1.RawValue
}

func split(t testing.TB, text []byte) (csr csrParts, info infoParts) {
	t.Helper()
	if _, err := asn1.Unmarshal(text, &csr); err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(csr.Signed.FullBytes, &info); err != nil {
		t.Fatal(err)
	}
	return csr, info
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	text, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// signedAnew puts other contents into a CSR, with a signature that is good.
func signedAnew(t testing.TB, key *ecdsa.PrivateKey, csr csrParts, contents []byte, hash crypto.Hash) []byte {
	t.Helper()
	digest := hash.New()
	digest.Write(contents)
	signature, err := ecdsa.SignASN1(rand.Reader, key, digest.Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	csr.Signed, csr.Signature = asn1.RawValue{FullBytes: contents}, asn1.BitString{Bytes: signature, BitLength: 8 * len(signature)}
	return marshal(t, csr)
}

// Each row is a good CSR but for one thing. Who holds another key than that of the CSR
// is told so; what is no CSR is not looked at further.
func TestCSRsThatProveNothing(t *testing.T) {
	t.Parallel()
	key, other := newKey(t, elliptic.P256()), newKey(t, elliptic.P256())
	text, another := newCSR(t, key, &x509.CertificateRequest{}), newCSR(t, other, &x509.CertificateRequest{})
	csr, info := split(t, text)
	anotherCSR, anotherInfo := split(t, another)
	change := func(do func(*csrParts)) []byte {
		c := csr
		do(&c)
		return marshal(t, c)
	}
	contents := func(do func(*infoParts)) []byte {
		i := info
		do(&i)
		return marshal(t, i)
	}
	with := func(do func(*infoParts)) []byte { return signedAnew(t, key, csr, contents(do), crypto.SHA256) }
	for name, test := range map[string]struct {
		csr  []byte
		want error // nil: any that is none of those about keys
	}{
		"another's signature":         {change(func(c *csrParts) { c.Signature = anotherCSR.Signature }), ErrKeyNotProved},
		"another's contents":          {change(func(c *csrParts) { c.Signed = anotherCSR.Signed }), ErrKeyNotProved},
		"another's key, signed by us": {with(func(i *infoParts) { i.Key = anotherInfo.Key }), ErrKeyNotProved},
		"no signature":                {change(func(c *csrParts) { c.Signature = asn1.BitString{} }), ErrKeyNotProved},
		"zeros as the signature": {change(func(c *csrParts) {
			zeros := marshal(t, struct{ R, S int }{})
			c.Signature = asn1.BitString{Bytes: zeros, BitLength: 8 * len(zeros)}
		}), ErrKeyNotProved},
		"signature with a byte behind": {change(func(c *csrParts) {
			more := append(slices.Clone(c.Signature.Bytes), 0)
			c.Signature = asn1.BitString{Bytes: more, BitLength: 8 * len(more)}
		}), ErrKeyNotProved},
		"algorithm of Ed25519":      {change(func(c *csrParts) { c.Algorithm.Algorithm = oidEd25519 }), ErrKeyNotProved},
		"algorithm of another hash": {change(func(c *csrParts) { c.Algorithm.Algorithm = oidECDSAWithSHA384 }), ErrKeyNotProved},
		"Ed25519 with parameters": {func() []byte {
			c, _ := split(t, newCSR(t, newEd25519(t), &x509.CertificateRequest{}))
			c.Algorithm.Parameters = asn1.NullRawValue
			return marshal(t, c)
		}(), ErrKeyNotProved},
		"SHA-1": {func() []byte {
			c := csr
			c.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 1}
			return signedAnew(t, key, c, csr.Signed.FullBytes, crypto.SHA1)
		}(), ErrKeyNotProved},
		"version 2":          {with(func(i *infoParts) { i.Version = 1 }), nil},
		"subject is no name": {with(func(i *infoParts) { i.Subject = asn1.RawValue{Tag: asn1.TagNull} }), nil},
		"key is no key":      {with(func(i *infoParts) { i.Key = i.Subject }), nil},
		"attributes as a SET": {with(func(i *infoParts) {
			i.Attributes = asn1.RawValue{Tag: asn1.TagSet, IsCompound: true}
		}), nil},
		"more after its attributes": {func() []byte {
			return signedAnew(t, key, csr, marshal(t, struct {
				Version                  int
				Subject, Key, Attributes asn1.RawValue
				More                     int
			}{0, info.Subject, info.Key, info.Attributes, 7}), crypto.SHA256)
		}(), nil},
		"more after its signature": {marshal(t, struct {
			Signed    asn1.RawValue
			Algorithm pkix.AlgorithmIdentifier
			Signature asn1.BitString
			More      int
		}{csr.Signed, csr.Algorithm, csr.Signature, 7}), nil},
		"a certificate":     {openCA(t, Options{}).Issuer().Raw, nil},
		"half of it":        {text[:len(text)/2], nil},
		"indefinite length": {append(append([]byte{0x30, 0x80}, text[4:]...), 0, 0), nil},
	} {
		key, err := ParseCSR(test.csr)
		if err == nil || key != nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if proof := errors.Is(err, ErrKeyNotProved); proof != (test.want != nil) || errors.Is(err, ErrKeyNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
		if !strings.Contains(err.Error(), "CSR") {
			t.Errorf("%s: %q does not name the CSR", name, err)
		}
	}
}

// What programs send: with what they wish for, which is not read, and in their own way.
func TestCSRsOfOtherProgramsAreRead(t *testing.T) {
	t.Parallel()
	key := newKey(t, elliptic.P256())
	csr, info := split(t, newCSR(t, key, &x509.CertificateRequest{}))
	withNull := csr
	withNull.Algorithm.Parameters = asn1.NullRawValue
	for name, text := range map[string][]byte{
		"crypto/x509": newCSR(t, key, &x509.CertificateRequest{URIs: []*url.URL{web.URL()}, Subject: pkix.Name{CommonName: "web"}}),
		"SHA-384":     newCSR(t, key, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA384}),
		"SHA-512":     newCSR(t, key, &x509.CertificateRequest{SignatureAlgorithm: x509.ECDSAWithSHA512}),
		"without attributes": signedAnew(t, key, csr, marshal(t, struct {
			Version      int
			Subject, Key asn1.RawValue
		}{0, info.Subject, info.Key}), crypto.SHA256),
		"parameters beside the algorithm": marshal(t, withNull),
	} {
		if got, err := ParseCSR(text); err != nil || !key.PublicKey.Equal(got) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "key"), keyPEM(t, key), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{
		"req -new -key key -subj /CN=web",
		"req -new -key key -subj /O=system:masters/CN=web -addext subjectAltName=DNS:a,URI:spiffe://cluster.local/ns/a/sa/b -outform DER",
	} {
		text, err := opensslIn(t, dir, args)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := ParseCSR(text); err != nil || !key.PublicKey.Equal(got) {
			t.Errorf("openssl %s: %v", args, err)
		}
	}
}
