// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// renewedRoot are files after their root was renewed.
func renewedRoot(t testing.TB, files Files, ttl time.Duration) Files {
	t.Helper()
	next, err := NextRoot(files, keyOf(files[RootKeyFile]), Options{RootTTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	if _, root := next[RootFile]; !root || len(next) != 1 {
		t.Fatalf("more than the root: %v", next.names())
	}
	files = maps.Clone(files)
	maps.Copy(files, next)
	return files
}

// rootOfKey is a CA whose root has a key and an authority key identifier as openssl.cnf
// would have it: it names the root's own serial number.
func rootOfKey(t testing.TB, key crypto.Signer) Files {
	t.Helper()
	template := authorityFor("root", time.Hour, 1)
	template.SubjectKeyId, template.SerialNumber = []byte{1, 2, 3}, big.NewInt(1<<40)
	id, err := asn1.Marshal(keyID{ID: template.SubjectKeyId, Serial: template.SerialNumber})
	if err != nil {
		t.Fatal(err)
	}
	template.ExtraExtensions = []pkix.Extension{{Id: oidKeyID, Value: id}, {Id: asn1.ObjectIdentifier{1, 3, 9999}, Value: []byte{5, 0}}}
	text, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root := &party{parsed(t, text), key}
	issuer := newParty(t, root, nil, authorityFor("issuer", time.Hour, 0))
	return Files{RootFile: pemOf(root), RootKeyFile: keyPEM(t, key), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)}
}

// What the root signed under its former certificate verifies under the next one, and the
// reverse: for crypto/x509, and for OpenSSL with nothing but one of the two.
func TestARenewedRootAndTheFormerVouchForTheSame(t *testing.T) {
	t.Parallel()
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, before := range map[string]Files{
		"Culvert's own": made(t), "RSA": rootOfKey(t, rsaKey), "Ed25519": rootOfKey(t, newEd25519(t)), "P-384": rootOfKey(t, newKey(t, elliptic.P384())),
	} {
		t.Run(name, func(t *testing.T) {
			after := renewedRoot(t, before, 20*365*24*time.Hour)
			both := after.Roots()
			former, next := before.Roots()[0], both[0]
			if len(both) != 2 || !both[1].Equal(former) {
				t.Fatalf("%d roots, want the next and the former", len(both))
			}
			if !bytes.Equal(next.RawSubject, former.RawSubject) || !bytes.Equal(next.RawSubjectPublicKeyInfo, former.RawSubjectPublicKeyInfo) {
				t.Error("another name, or another key")
			}
			if next.SerialNumber.Cmp(former.SerialNumber) == 0 || !next.NotAfter.After(former.NotAfter) || time.Since(next.NotBefore) < 15*time.Minute {
				t.Errorf("serial %x, from %v to %v", next.SerialNumber, next.NotBefore, next.NotAfter)
			}
			for _, extension := range former.Extensions {
				kept := slices.ContainsFunc(next.Extensions, func(e pkix.Extension) bool {
					return e.Id.Equal(extension.Id) && e.Critical == extension.Critical && bytes.Equal(e.Value, extension.Value)
				})
				if kept == extension.Id.Equal(oidKeyID) {
					t.Errorf("the extension %v was kept: %v", extension.Id, kept)
				}
			}
			youngerIssuer, err := NextIssuer(after, keyOf(before[RootKeyFile]), Options{IssuerTTL: 30 * time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			later := maps.Clone(after)
			maps.Copy(later, youngerIssuer)
			for when, signs := range map[string]Files{"before": before, "after": later} {
				c := taken(t, signs)
				leaf := sign(t, c, plainCSR(t), time.Minute)
				dir := t.TempDir()
				for file, cert := range map[string]*x509.Certificate{"former": former, "next": next, "issuer": c.Issuer(), "leaf": leaf} {
					if err := os.WriteFile(filepath.Join(dir, file), encodeCert(cert), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				for _, root := range []string{"former", "next"} {
					if _, err := opensslIn(t, dir, "verify -x509_strict -no-CApath -no-CAstore -CAfile "+root+" -untrusted issuer -purpose sslserver leaf"); err != nil {
						t.Errorf("a leaf of %s under the %s root: %v", when, root, err)
					}
				}
			}
		})
	}
}

func TestARootThatIsNotOursOrWhoseKeyIsAnothersIsNotRenewed(t *testing.T) {
	t.Parallel()
	files, other := made(t), made(t)
	key := keyOf(files[RootKeyFile])
	upstream := newParty(t, nil, nil, authorityFor("upstream", 4*time.Hour, 2))
	parent := newParty(t, upstream, nil, authorityFor("parent", 3*time.Hour, 1))
	issuer := newParty(t, parent, nil, authorityFor("issuer", 2*time.Hour, 0))
	serial := newParty(t, nil, key, authorityFor("root", time.Hour, 1))
	bound := newParty(t, serial, nil, withSerialOf(t, serial, authorityFor("issuer", time.Hour, 0)))
	for name, refused := range map[string]struct {
		files Files
		key   crypto.Signer
		ttl   time.Duration
		says  string
	}{
		"cert-manager's":          {Files{"ca.crt": files[RootFile], "tls.crt": files[IssuerFile], "tls.key": files[IssuerKeyFile]}, key, 0, "that of cert-manager's issuer; renew it there"},
		"an operator's":           {Files{"ca.crt": files[RootFile], "issuer.crt": files[IssuerFile], "issuer.key": files[IssuerKeyFile]}, key, 0, `the layout is "dapr": the root is its operator's`},
		"an upstream's":           {Files{RootFile: pemOf(parent), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)}, parent.key, 0, "is not self-signed: it is that of CN=upstream"},
		"an upstream's, of two":   {Files{RootFile: append(pemOf(parent), files[RootFile]...), IssuerFile: pemOf(issuer), IssuerKeyFile: keyPEM(t, issuer.key)}, parent.key, 0, "is not self-signed"},
		"by another key":          {files, keyOf(other[RootKeyFile]), 0, "the private key is that of no root in root.pem"},
		"to end sooner":           {files, key, time.Hour, "ask for a longer lifetime"},
		"of an issuer's serial":   {Files{RootFile: pemOf(serial), IssuerFile: pemOf(bound), IssuerKeyFile: keyPEM(t, bound.key)}, key, 0, "CA078"},
		"of a serial, encrypted":  {Files{RootFile: pemOf(serial), IssuerFile: pemOf(bound), IssuerKeyFile: encrypted(t, bound.key, "sesame")}, key, 0, "is not known: issuer.key is encrypted"},
		"a file that is no root":  {Files{RootFile: []byte("no"), IssuerFile: files[IssuerFile], IssuerKeyFile: files[IssuerKeyFile]}, key, 0, "root.pem holds no root"},
		"a root that is unusable": {Files{RootFile: files[RootFile][:len(files[RootFile])/2], IssuerFile: files[IssuerFile], IssuerKeyFile: files[IssuerKeyFile]}, key, 0, "root.pem holds no root"},
	} {
		if _, err := NextRoot(refused.files, refused.key, Options{RootTTL: refused.ttl}); err == nil || !strings.Contains(err.Error(), refused.says) {
			t.Errorf("%s: %v, want %q", name, err, refused.says)
		}
	}
}

// withSerialOf has a template's authority key identifier name the serial number of whoever
// signs it, as openssl does with "issuer:always".
func withSerialOf(t testing.TB, by *party, template *x509.Certificate) *x509.Certificate {
	t.Helper()
	id, err := asn1.Marshal(keyID{ID: by.SubjectKeyId, Serial: by.SerialNumber})
	if err != nil {
		t.Fatal(err)
	}
	template.ExtraExtensions = []pkix.Extension{{Id: oidKeyID, Value: id}}
	return template
}

// The CA that runs adds the next certificate to its bundle, drops none, and goes on by the
// same issuer. The former certificate goes with a later renewal, once it has expired.
func TestARenewedRootIsTakenWhileTheCARunsAndTheFormerStaysUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		k := open(t, store)
		issuer, former := k.ca.Issuer(), k.ca.Roots()[0]
		leaf := sign(t, k.ca, plainCSR(t), time.Hour)
		generation, _ := k.ca.Bundle()
		renew := func(ttl time.Duration) {
			t.Helper()
			files, _ := store.Read(t.Context())
			store.Set(renewedRoot(t, files, ttl))
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		renew(20 * 365 * 24 * time.Hour)
		after, roots := k.ca.Bundle()
		if after <= generation || len(roots) != 2 || !slices.ContainsFunc(roots, former.Equal) || !k.ca.Issuer().Equal(issuer) {
			t.Errorf("generation %d after %d, %d roots", after, generation, len(roots))
		}
		if events := k.Events(); events[RootAdded] != 1 || events[RootDropped] != 0 || events[IssuerUpdated] != 0 || events[IssuerValidationFailed] != 0 {
			t.Errorf("told %v", *k.told)
		}
		for _, root := range roots {
			if _, err := leaf.Verify(x509.VerifyOptions{Roots: poolOf(root), Intermediates: poolOf(issuer)}); err != nil {
				t.Errorf("under the root until %v: %v", root.NotAfter, err)
			}
		}
		if len(Unrenewed(roots, time.Now())) != 1 || Renewed(former, roots) == nil || Renewed(roots[0], roots) != nil {
			t.Error("which of the two was renewed is not told")
		}
		for time.Now().Before(former.NotAfter) {
			time.Sleep(3 * month)
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if left := time.Until(k.ca.NotAfter()); left < month {
			t.Errorf("%v left: issuers end with the former root", left)
		}
		renew(25 * 365 * 24 * time.Hour)
		if _, roots = k.ca.Bundle(); len(roots) != 2 || slices.ContainsFunc(roots, former.Equal) {
			t.Errorf("%d roots, and one of them has expired", len(roots))
		}
	})
}

// Two roots of one key and different names are two: a chain leads to one by its name.
func TestARootOfAnotherNameIsNoRenewal(t *testing.T) {
	key := newKey(t, elliptic.P256())
	one := newParty(t, nil, key, authorityFor("one", time.Hour, 1)).Certificate
	other := newParty(t, nil, key, authorityFor("other", 2*time.Hour, 1)).Certificate
	if all := []*x509.Certificate{one, other}; Renewed(one, all) != nil || len(Unrenewed(all, time.Now())) != 2 {
		t.Error("a root is taken for the renewal of another")
	}
}

func poolOf(certs ...*x509.Certificate) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool
}

// All has expired while the CA ran on. Its root is renewed by hand; the issuer follows.
func TestARenewedRootBringsACAThatHasExpiredBack(t *testing.T) {
	for name, stopped := range map[string]bool{"that runs": false, "that is started": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &Memory{}
				k := open(t, store)
				for time.Now().Before(k.ca.Roots()[0].NotAfter) {
					time.Sleep(3 * month)
					_ = k.look(t.Context()) // in the end it says that all has expired
				}
				files, _ := store.Read(t.Context())
				store.Set(renewedRoot(t, files, 20*365*24*time.Hour))
				if stopped {
					k = open(t, store)
				}
				if err := k.look(t.Context()); err != nil {
					t.Fatal(err)
				}
				leaf := sign(t, k.ca, plainCSR(t), time.Hour)
				if err := verify(k.ca, leaf, x509.ExtKeyUsageServerAuth); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// An issuer that its root's end cut short says nothing about those that follow it under the
// renewed root: they would have minutes to live, and go on so.
func TestAnIssuerThatWasCutShortByItsRootIsNoMeasureForTheNext(t *testing.T) {
	year := 365 * 24 * time.Hour
	for name, left := range map[string]time.Duration{ // of the root, when the CA is started again after years
		"the root ends soon":        2 * time.Hour,
		"the root ends at once":     2 * MinTTL,
		"the root has no leaf left": MinTTL / 2,
		"the root has expired":      -time.Hour,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &Memory{}
				former := open(t, store).ca.Roots()[0]
				before, _ := store.Read(t.Context())
				time.Sleep(time.Until(former.NotAfter) - left)
				k := keep(t, store)
				err := k.Open(t.Context())
				files, _ := store.Read(t.Context())
				if gone := left < MinTTL; errors.Is(err, ErrExpired) != gone || files.Same(before) != gone {
					t.Fatalf("%v, and the store is as before: %v", err, files.Same(before))
				}
				store.Set(renewedRoot(t, files, 20*year))
				k = open(t, store)
				for range 3 {
					if err := k.look(t.Context()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(left.Abs())
				}
				if life := k.ca.Issuer().NotAfter.Sub(k.ca.Issuer().NotBefore); life < year {
					t.Errorf("the issuer lives for %v", life)
				}
			})
		})
	}
}

// An operator renewed the root by a clock that is ahead of the CA's. A CA that starts goes by
// the former certificate until the next one holds, and then takes that without being told.
func TestARenewedRootThatDoesNotHoldYetKeepsNoCAFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &Memory{}
		former := open(t, store).ca.Roots()[0]
		time.Sleep(time.Until(former.NotAfter) - 10*24*time.Hour)
		open(t, store) // renews the issuer
		files, _ := store.Read(t.Context())
		next := *former
		next.NotBefore, next.NotAfter, next.ExtraExtensions = time.Now().Add(24*time.Hour), time.Now().Add(20*365*24*time.Hour), former.Extensions
		key := keyOf(files[RootKeyFile])
		renewed, err := create(&next, &next, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		files[RootFile] = append(encodeCert(renewed), files[RootFile]...)
		store.Set(files)
		k := open(t, store)
		leaf := sign(t, k.ca, plainCSR(t), time.Hour)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: poolOf(k.ca.Roots()...), Intermediates: poolOf(k.ca.Issuer())}); err != nil {
			t.Error(err)
		}
		for time.Now().Before(former.NotAfter.Add(24 * time.Hour)) {
			time.Sleep(6 * time.Hour)
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			sign(t, k.ca, plainCSR(t), time.Hour)
		}
	})
}

// Killed at any write, the CA has the former root or both.
func TestARenewalOfTheRootThatWasKilledIsTheOldBundleOrTheNew(t *testing.T) {
	dir := newDir(t)
	before, err := (Directory{Path: dir}).Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next := Files{RootFile: renewedRoot(t, before, 20*365*24*time.Hour)[RootFile]}
	killedAnywhere(t, before, next, func(c *CA, written bool) {
		if got := len(c.Roots()); got != 2 && (got != 1 || written) {
			t.Errorf("%d roots", got)
		}
		sign(t, c, plainCSR(t), time.Hour)
	})
}

// Until the next certificate holds, peers go by the former: its end is what counts.
func TestARootIsNotRenewedByACertificateThatDoesNotHoldYet(t *testing.T) {
	now := time.Now()
	of := func(from, until time.Duration) *x509.Certificate {
		return &x509.Certificate{RawSubject: []byte("a"), RawSubjectPublicKeyInfo: []byte("k"), NotBefore: now.Add(from), NotAfter: now.Add(until)}
	}
	former, next := of(-time.Hour, time.Hour), of(time.Minute, 24*time.Hour)
	both := []*x509.Certificate{former, next}
	if all := Unrenewed(both, now); len(all) != 2 {
		t.Errorf("%d of two stand while the next holds from %v", len(all), next.NotBefore)
	}
	if all := Unrenewed(both, next.NotBefore); len(all) != 1 || all[0] != next {
		t.Error("not renewed by one that holds")
	}
}
