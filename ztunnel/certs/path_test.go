// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"crypto"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	mathrand "math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
)

// leafOf is a leaf of web that has a name beside its URI.
func leafOf(changes ...func(*x509.Certificate)) *x509.Certificate {
	name := func(c *x509.Certificate) { c.DNSNames = []string{"web.shop"} }
	return certstest.Leaf(web, append([]func(*x509.Certificate){name}, changes...)...)
}

func certsOf(all ...*certstest.Signer) (certs []*x509.Certificate) {
	for _, s := range all {
		certs = append(certs, s.Cert)
	}
	return certs
}

// oracle asks crypto/x509 with all that was presented.
func oracle(b *bundle, certs []*x509.Certificate, usage x509.ExtKeyUsage) error {
	opts := x509.VerifyOptions{Roots: b.pool, Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{usage}}
	for _, cert := range certs[1:] {
		opts.Intermediates.AddCert(cert)
	}
	_, err := certs[0].Verify(opts)
	return err
}

func TestChainsAsPeersPresentThemAreAccepted(t *testing.T) {
	p256 := elliptic.P256()
	root := certstest.Mint(certstest.Authority("root"), certstest.NewKey(p256), nil)
	rekeyed := certstest.Mint(certstest.Authority("root"), certstest.NewKey(p256), nil) // another key under the same name
	old := certstest.Mint(certstest.Authority("old root"), certstest.NewKey(p256), nil)
	issuer := certstest.Mint(certstest.Authority("issuer"), certstest.NewKey(elliptic.P384()), root)
	crossed := certstest.Mint(certstest.Authority("issuer"), issuer.Key, old) // the same key under another root
	second := certstest.Mint(certstest.Authority("second"), certstest.NewKey(p256), issuer)
	_, edKey, _ := ed25519.GenerateKey(rand.Reader)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	large := certstest.Mint(certstest.Authority("large"), certstest.NewKey(elliptic.P521()), nil)
	// As SPIRE's are without serial numbers in their names: roots, and two authorities
	// below the last, the upper one signed by a former root, too.
	mesh := func(key crypto.Signer, by *certstest.Signer, keyID bool) *certstest.Signer {
		return certstest.Mint(certstest.Authority("mesh", func(c *x509.Certificate) {
			if keyID { // crypto/x509 sees itself to it only where names differ
				c.AuthorityKeyId = by.Cert.SubjectKeyId
			}
		}), key, by)
	}
	newKey := func() crypto.Signer { return certstest.NewKey(p256) }
	former := mesh(newKey(), nil, false)
	alike := []*certstest.Signer{mesh(newKey(), nil, false), mesh(newKey(), nil, false), mesh(newKey(), nil, false)}
	upper := mesh(newKey(), alike[2], true)
	lower := mesh(newKey(), upper, true)
	crossedUpper := mesh(upper.Key, former, true)
	upperNoID := mesh(newKey(), alike[2], false)
	lowerNoID := mesh(newKey(), upperNoID, false)
	self := certstest.Mint(leafOf(), certstest.NewKey(p256), nil)
	for name, test := range map[string]struct {
		roots     []*certstest.Signer
		presented []*certstest.Signer
	}{
		"leaf of a root":              {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), root)}},
		"leaf, issuer":                {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), issuer), issuer}},
		"leaf, issuer, root":          {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), edKey, issuer), issuer, root}},
		"leaf, two issuers":           {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), rsaKey, second), second, issuer}},
		"an issuer that we trust":     {[]*certstest.Signer{issuer}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), issuer), issuer, root}},
		"a root that was re-keyed":    {[]*certstest.Signer{rekeyed, root}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), issuer), issuer}},
		"cross-signed, ours first":    {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), issuer), issuer, crossed}},
		"cross-signed, ours last":     {[]*certstest.Signer{root}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), issuer), crossed, issuer}},
		"a root of ours may be large": {[]*certstest.Signer{large}, []*certstest.Signer{certstest.Mint(leafOf(), certstest.NewKey(p256), large), large}},
		"a root that is no authority": {[]*certstest.Signer{self}, []*certstest.Signer{self}},
		"authorities of one name":     {alike, []*certstest.Signer{certstest.Mint(leafOf(), newKey(), lower), lower, upper}},
		"without key identifiers":     {alike, []*certstest.Signer{certstest.Mint(leafOf(), newKey(), lowerNoID), lowerNoID, upperNoID}},
		"cross-signed, of one name":   {alike, []*certstest.Signer{certstest.Mint(leafOf(), newKey(), lower), lower, crossedUpper, upper}},
	} {
		b := mustBundle(t, certsOf(test.roots...)...)
		if _, err := verifyChain(certsOf(test.presented...), b, asClient, time.Now()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A bundle with two roots of one name, and certificates good and bad in any
// order: where crypto/x509 refuses, so do we.
func TestNothingIsAcceptedThatX509Refuses(t *testing.T) {
	p256 := elliptic.P256()
	key := func() crypto.Signer { return certstest.NewKey(p256) }
	root, other, stranger := certstest.Mint(certstest.Authority("root"), key(), nil), certstest.Mint(certstest.Authority("root"), key(), nil), certstest.Mint(certstest.Authority("root"), key(), nil)
	critical := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
	}
	expired := func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	}
	issuers := []*certstest.Signer{root, other, stranger}
	for _, by := range []*certstest.Signer{root, other, stranger} {
		for _, change := range []func(*x509.Certificate){
			untouched, expired, critical,
			func(c *x509.Certificate) { c.IsCA, c.KeyUsage = false, x509.KeyUsageDigitalSignature },
			func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature },
			func(c *x509.Certificate) { c.BasicConstraintsValid, c.IsCA = false, false },
			func(c *x509.Certificate) { c.MaxPathLen, c.MaxPathLenZero = 0, true },
			func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
			func(c *x509.Certificate) {
				c.PermittedURIDomains, c.PermittedDNSDomainsCritical = []string{"example.org"}, true
			},
			func(c *x509.Certificate) {
				c.ExcludedDNSDomains, c.PermittedDNSDomainsCritical = []string{"shop"}, true
			},
		} {
			issuers = append(issuers, certstest.Mint(certstest.Authority("issuer", change), key(), by))
		}
	}
	for _, by := range issuers[3:8] {
		issuers = append(issuers, certstest.Mint(certstest.Authority("second"), key(), by), certstest.Mint(certstest.Authority("issuer"), key(), by))
	}
	var leaves []*certstest.Signer
	for _, by := range issuers {
		leaves = append(leaves, certstest.Mint(leafOf(), key(), by))
	}
	for _, change := range []func(*x509.Certificate){expired, critical,
		func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
	} {
		leaves = append(leaves, certstest.Mint(leafOf(change), key(), issuers[3]))
	}
	b := mustBundle(t, root.Cert, other.Cert)
	random := mathrand.New(mathrand.NewPCG(1, 2))
	var accepted, missed, refused int
	for range 5000 {
		leaf := leaves[random.IntN(len(leaves))]
		presented := []*certstest.Signer{leaf}
		for range random.IntN(4) {
			next := issuers[random.IntN(len(issuers))]
			if random.IntN(2) == 0 { // else a chain would seldom be one
				next = presented[len(presented)-1].By
			}
			presented = append(presented, next)
		}
		if random.IntN(8) == 0 {
			random.Shuffle(len(presented)-1, func(i, j int) { presented[1+i], presented[1+j] = presented[1+j], presented[1+i] })
		}
		certs := certsOf(presented...)
		_, err := verifyChain(certs, b, asClient, time.Now())
		switch want := oracle(b, certs, asClient); {
		case err == nil && want != nil:
			t.Fatalf("accepted, though crypto/x509 says: %v", want)
		case err == nil:
			accepted++
		case want == nil:
			missed++ // out of order
		default:
			refused++
		}
	}
	t.Logf("both accept %d, both refuse %d; only crypto/x509 accepts %d", accepted, refused, missed)
	if accepted < 100 || refused < 100 || missed > accepted/4 {
		t.Error("these chains show nothing")
	}
}

// Eight certificates with one name, each signed by the next: crypto/x509 tries
// them with each other, a hundred times.
func TestStrangerHasFewSignaturesChecked(t *testing.T) {
	root := certstest.Mint(certstest.Authority("root"), certstest.NewKey(elliptic.P256()), nil)
	issuer := certstest.Mint(certstest.Authority("issuer"), certstest.NewKey(elliptic.P256()), root)
	ladder := func(name string, last *certstest.Signer) []*x509.Certificate {
		chain := certsOf(last)
		for len(chain) < maxChain-1 {
			last = certstest.Mint(certstest.Authority(name), certstest.NewKey(elliptic.P256()), last)
			chain = append(certsOf(last), chain...)
		}
		return append(certsOf(certstest.Mint(leafOf(), certstest.NewKey(elliptic.P256()), last)), chain...)
	}
	fake := func(subject string) *certstest.Signer {
		return certstest.Mint(certstest.Authority(subject), certstest.NewKey(elliptic.P256()), nil)
	}
	impostor := certstest.Mint(leafOf(), certstest.NewKey(elliptic.P256()), fake("issuer"))
	for name, test := range map[string]struct {
		chain []*x509.Certificate
		most  int
	}{
		"of nobody":                     {ladder("x", fake("x")), 0},
		"that call themselves our root": {ladder("root", fake("root")), maxFailures},
		"below a true issuer":           {append(certsOf(impostor), slices.Repeat(certsOf(issuer), maxChain-1)...), 2 * maxFailures},
	} {
		b, checked := mustBundle(t, root.Cert), 0
		path := b.path(test.chain, func(cert, by *x509.Certificate) error {
			checked++
			return cert.CheckSignatureFrom(by)
		})
		if path != nil || checked > test.most {
			t.Errorf("%s: path of %d, %d signatures checked, want at most %d", name, len(path), checked, test.most)
		}
	}
}

// wide is an RSA key of 8192 bits, of which nobody needs to know the primes.
type wide struct{ crypto.Signer }

func (wide) Public() crypto.PublicKey {
	n := new(big.Int).Lsh(big.NewInt(1), 8191)
	return &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
}

func TestKeysThatAreDearAreRefusedBeforeAnySignatureIsChecked(t *testing.T) {
	root := certstest.Mint(certstest.Authority("root"), certstest.NewKey(elliptic.P256()), nil)
	b := mustBundle(t, root.Cert)
	issuer := certstest.Mint(certstest.Authority("issuer"), certstest.NewKey(elliptic.P521()), root)
	padded := func(c *x509.Certificate) { c.DNSNames = []string{strings.Repeat("a", maxChainSize)} }
	for name, chain := range map[string][]*x509.Certificate{
		"P-521 leaf":   certsOf(certstest.Mint(leafOf(), certstest.NewKey(elliptic.P521()), root)),
		"P-224 leaf":   certsOf(certstest.Mint(leafOf(), certstest.NewKey(elliptic.P224()), root)),
		"RSA leaf":     certsOf(certstest.Mint(leafOf(), wide{}, root)),
		"P-521 issuer": certsOf(certstest.Mint(leafOf(), certstest.NewKey(elliptic.P256()), issuer), issuer),
		"large":        certsOf(certstest.Mint(leafOf(padded), certstest.NewKey(elliptic.P256()), root)),
		"long":         slices.Repeat(certsOf(certstest.Mint(leafOf(), certstest.NewKey(elliptic.P256()), root)), maxChain+1),
	} {
		if oracle(b, chain, asClient) != nil {
			t.Errorf("%s: crypto/x509 refuses it too", name)
		}
		if _, err := verifyChain(chain, b, asClient, time.Now()); !errors.Is(err, errCostly) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// crypto/tls checks the peer's own signature with the leaf's key: only after
// VerifyConnection, or a key would be used that is not bounded.
func TestPeersSignatureIsCheckedOnlyWithAKeyThatWasLookedAt(t *testing.T) {
	story(t, func(t *testing.T, r *rig) {
		hold(t, r, db)
		synctest.Wait()
		root := certstest.Mint(certstest.Authority("root"), certstest.NewKey(elliptic.P256()), nil)
		leaf := certstest.Mint(leafOf(), certstest.NewKey(elliptic.P521()), root)
		// The key in the certificate did not make the signature: whoever checks that says so.
		wrong := tls.Certificate{Certificate: [][]byte{leaf.Cert.Raw}, PrivateKey: certstest.NewKey(elliptic.P521())}
		said := map[string]error{}
		sc, _ := server(t, r, db)
		said["server"] = shake(t, sc, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"},
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &wrong, nil }}).serverErr
		cc, _ := client(t, r, db, web)
		said["client"] = shake(t, &tls.Config{NextProtos: []string{"h2"}, ClientAuth: tls.RequireAnyClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &wrong, nil }}, cc).clientErr
		for _, side := range slices.Sorted(maps.Keys(said)) {
			judge(t, side, said[side], "P-521", false)
		}
	})
}
