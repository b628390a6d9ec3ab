// SPDX-License-Identifier: Apache-2.0

package deny

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
)

// signer is a root or issuer that revokes.
type signer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// newSigner is signed by a parent, or by itself.
func newSigner(t *testing.T, name string, serial int64, parent *signer) *signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{0xaa, byte(serial)},
	}
	s := &signer{t: t, key: key, cert: template}
	by := parent
	if by == nil {
		by = s
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by.cert, &key.PublicKey, by.key)
	if err == nil {
		s.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// revokes is its list in PEM; change may be nil.
func (s *signer) revokes(change func(*x509.RevocationList), serials ...int64) []byte {
	s.t.Helper()
	list := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Unix(0, 0), NextUpdate: time.Unix(1<<33, 0)}
	for _, serial := range serials {
		list.RevokedCertificateEntries = append(list.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(serial), RevocationTime: time.Unix(0, 0), ReasonCode: 1})
	}
	if change != nil {
		change(list)
	}
	der, err := x509.CreateRevocationList(rand.Reader, list, s.cert, s.key)
	if err != nil {
		s.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der})
}

func old(list *x509.RevocationList) { list.NextUpdate = time.Unix(1<<30, 0) }

func TestARevocationListDeniesWhatItNames(t *testing.T) {
	root := newSigner(t, "root", 1, nil)
	issuer := newSigner(t, "issuer", 2, root)
	issuers := []*x509.Certificate{issuer.cert, root.cert}
	got, stale, err := ParseCRLs(slices.Concat(root.revokes(nil, 2), issuer.revokes(nil, 0x4f1d02, 0xab)), issuers, time.Now())
	want := []Entry{
		{Kind: KindIssuer, Value: "aa02", Reason: "revoked by a CRL: keyCompromise"},
		{Kind: KindSerial, Value: "4f1d02", Reason: "revoked by a CRL: keyCompromise"},
		{Kind: KindSerial, Value: "ab", Reason: "revoked by a CRL: keyCompromise"},
	}
	if err != nil || len(stale) > 0 || !slices.Equal(got, want) {
		t.Errorf("%v, %v, %v", got, stale, err)
	}
	if got, _, err := ParseCRLs(issuer.revokes(nil), issuers, time.Now()); err != nil || len(got) > 0 {
		t.Errorf("a list of nothing: %v, %v", got, err)
	}
	got, stale, err = ParseCRLs(issuer.revokes(old, 7), issuers, time.Now())
	if err != nil || len(got) != 1 || len(stale) != 1 || !strings.Contains(stale[0], `"CN=issuer" should have been replaced by 2004-01-10`) {
		t.Errorf("one that is old: %v, %q, %v", got, stale, err)
	}
}

// Issuers that number from 1000 on share numbers with each other: the certificate 1000 of one
// must not deny the authority 1000 of another, and with it everybody.
func TestASerialNumberOfAnotherIssuersAuthorityDeniesNobody(t *testing.T) {
	root := newSigner(t, "root", 1, nil)
	issuer := newSigner(t, "issuer", 0x1000, root)
	issuers := []*x509.Certificate{issuer.cert, root.cert}
	got, remarks, err := ParseCRLs(issuer.revokes(nil, 0x1000, 0x1001, 1), issuers, time.Now())
	if want := []Entry{{Kind: KindSerial, Value: "1001", Reason: "revoked by a CRL: keyCompromise"}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	want := `serial 1000, revoked by "CN=issuer", is left out, because "CN=issuer" has that number too, by "CN=root": deny the key (spki) instead`
	if len(remarks) != 2 || remarks[0] != want {
		t.Errorf("it says %q", remarks)
	}
	if got, remarks, err := ParseCRLs(root.revokes(nil, 0x1000), issuers, time.Now()); err != nil || len(remarks) > 0 || len(got) != 1 || got[0].Kind != KindIssuer {
		t.Errorf("by its own issuer: %v, %q, %v", got, remarks, err)
	}
	got, remarks, err = ParseCRLs(issuer.revokes(nil, 1, 1, 1, 1, 1), issuers, time.Now())
	if err != nil || len(got) > 0 || len(remarks) != maxShared+1 || remarks[maxShared] != `and 2 more of "CN=issuer"` {
		t.Errorf("many: %v, %q, %v", got, remarks, err)
	}
}

func TestARevocationListThatIsWrongIsNone(t *testing.T) {
	root, other := newSigner(t, "root", 1, nil), newSigner(t, "other", 1, nil)
	impostor := newSigner(t, "root", 1, nil)
	issuers := []*x509.Certificate{root.cert}
	good := root.revokes(nil, 7)
	delta := func(list *x509.RevocationList) {
		list.ExtraExtensions = []pkix.Extension{{Id: deltaCRL, Critical: true, Value: []byte{2, 1, 1}}}
	}
	many := make([]int64, MaxEntries+1)
	for i := range many {
		many[i] = int64(i + 1)
	}
	for name, row := range map[string]struct {
		text []byte
		want string
	}{
		"empty":                          {nil, "empty"},
		"of an unknown issuer":           {other.revokes(nil, 7), `block 1: the revocation list is of "CN=other", which is no issuer or root of this CA`},
		"with a wrong signature":         {impostor.revokes(nil, 7), `block 1: the revocation list of "CN=root": `},
		"the second is wrong":            {slices.Concat(good, other.revokes(nil, 7)), "block 2: "},
		"a certificate":                  {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw}), `block 1: a "CERTIFICATE"`},
		"half written":                   {good[:len(good)/2], "block 1: not PEM"},
		"no DER":                         {pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte{1}}), "block 1: "},
		"a delta":                        {root.revokes(delta, 7), "block 1: a delta list"},
		"of more certificates than fit":  {root.revokes(nil, many...), "more than 10000"},
		"more lists than a CA has":       {bytes.Repeat(good, maxCRLs+1), "more than 64"},
		"longer than anything should be": {make([]byte, MaxText+1), "longer than"},
	} {
		if got, _, err := ParseCRLs(row.text, issuers, time.Now()); err == nil || !strings.Contains(err.Error(), row.want) || got != nil {
			t.Errorf("%s: %d entries, %v; want %q", name, len(got), err, row.want)
		}
	}
}

// A file of lists is followed as a deny set is: what is wrong changes nothing, and is said
// once.
func TestRevocationListsAreFollowed(t *testing.T) {
	t.Parallel()
	root := newSigner(t, "root", 1, nil)
	file, log, s := filepath.Join(t.TempDir(), "ca-crl.pem"), &env.Log{}, NewSet()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- s.FollowCRLFile(ctx, file, func() []*x509.Certificate { return []*x509.Certificate{root.cert} }, slog.New(slog.NewTextHandler(log, nil)))
	}()
	defer func() { cancel(); <-done }()
	has := func(when string, trouble string, serials ...string) {
		t.Helper()
		await(t, when, func() bool {
			_, entries, _ := s.Entries()
			var got []string
			for _, e := range entries {
				got = append(got, e.Value)
			}
			why := s.Trouble()
			return slices.Equal(got, serials) && (trouble == "") == (why == "") && strings.Contains(why, trouble)
		})
	}
	has("there is none yet", "no such file")
	if s.Unknown() == nil {
		t.Error("nobody knows what is revoked")
	}
	put(t, file, string(root.revokes(nil, 7)))
	has("the first", "", "7")
	put(t, file, "-----BEGIN X509 CRL-----")
	has("one half written", "not PEM", "7")
	put(t, file, string(root.revokes(old, 7, 8)))
	has("an old list", "should have been replaced", "7", "8")
	put(t, file, string(root.revokes(old, 7, 9)))
	has("another old list", "should have been replaced", "7", "9")
	if n := strings.Count(log.String(), "not all is well with them"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
	put(t, file, string(root.revokes(nil, 9)))
	has("a new one", "", "9")
}

// Two sources of denials are one set, which is known when both are.
func TestTwoSourcesAreOneSet(t *testing.T) {
	one, other, both := NewSet(), NewSet(), NewSet()
	said := &env.Log{}
	log := slog.New(slog.NewTextHandler(said, nil))
	a, b := Entry{Kind: KindNode, Value: "a"}, Entry{Kind: KindSerial, Value: "b"}
	one.Replace(700, []Entry{a})
	if both.merge(one, other, log); both.Unknown() == nil {
		t.Error("one of both is not known")
	}
	other.Replace(0, []Entry{b})
	both.merge(one, other, log)
	if generation, entries, _ := both.Entries(); generation != 700 || !slices.Equal(entries, []Entry{a, b}) {
		t.Errorf("%d, %v", generation, entries)
	}
	other.Replace(0, nil)
	both.merge(one, other, log)
	if generation, entries, _ := both.Entries(); generation != 701 || !slices.Equal(entries, []Entry{a}) {
		t.Errorf("%d, %v", generation, entries)
	}
	_ = other.Keep(context.Canceled, slog.New(slog.DiscardHandler))
	if both.merge(one, other, log); both.Trouble() != context.Canceled.Error() {
		t.Errorf("trouble %q", both.Trouble())
	}
	other.Replace(0, make([]Entry, MaxEntries))
	for range 2 { // as polls do
		if both.merge(one, other, log); !strings.Contains(both.Trouble(), "10001 entries") {
			t.Errorf("trouble %q", both.Trouble())
		}
	}
	if n := strings.Count(said.String(), "10001 entries of two sources, the limit is 10000"); n != 1 {
		t.Errorf("it is said %d times", n)
	}
}
