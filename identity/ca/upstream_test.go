// SPDX-License-Identifier: Apache-2.0

package ca

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// above is an upstream authority in this process.
type above struct {
	t      *testing.T
	root   *x509.Certificate
	key    crypto.Signer
	away   error
	signed int
	bad    func(*x509.Certificate) // of what it signs
	says   []*x509.Certificate     // Chain, if it is not root
}

func newAbove(t *testing.T) *above {
	up := &above{t: t}
	up.another()
	return up
}

// another has it sign by another root.
func (up *above) another() {
	up.t.Helper()
	files, err := Make(Options{TrustDomain: td})
	if err != nil {
		up.t.Fatal(err)
	}
	up.root, up.key = files.Roots()[0], files.rootKey(Options{})
}

func (up *above) String() string { return "the authority above" }

func (up *above) Chain(context.Context) ([]*x509.Certificate, error) {
	if up.says != nil {
		return up.says, nil
	}
	return []*x509.Certificate{up.root}, up.away
}

func (up *above) Sign(_ context.Context, csr []byte, name string, _ *url.URL, ttl time.Duration) ([]*x509.Certificate, error) {
	if up.away != nil {
		return nil, up.away
	}
	request, err := x509.ParseCertificateRequest(csr)
	if err != nil {
		return nil, err
	}
	up.signed++
	template := authorityTemplate(name, td, ttl, 0)
	if up.bad != nil {
		up.bad(template)
	}
	cert, err := create(template, up.root, request.PublicKey, up.key)
	return []*x509.Certificate{cert, up.root}, err
}

func underUpstream(t *testing.T, up Upstream) *Keeper {
	t.Helper()
	made, err := New(Options{TrustDomain: td, Upstream: up, IssuerTTL: 90 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return NewKeeper(KeeperOptions{CA: made, Store: &Memory{}})
}

func TestAnUpstreamAuthoritySignsTheIssuersAndItsRootIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAbove(t)
		up.away = errors.New("it is sealed")
		k := underUpstream(t, up)
		if err := k.Open(t.Context()); !errors.Is(err, ErrUpstream) || !strings.Contains(err.Error(), "it is sealed") {
			t.Fatalf("it is away: %v", err)
		}
		up.away = nil
		time.Sleep(firstUpstreamPause)
		if err := k.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		first, former := k.ca.Issuer(), up.root
		look := func(want error) {
			t.Helper()
			if err := k.look(t.Context()); !errors.Is(err, want) {
				t.Fatalf("a look: %v, want %v", err, want)
			}
		}
		look(nil)
		if state := k.Renewal().State; state != RenewalUpstream || up.signed != 1 {
			t.Errorf("renewal %q, %d issuers", state, up.signed)
		}

		time.Sleep(month) // it is away while nothing is due: nobody is told
		up.away = errors.New("it is sealed")
		look(nil)
		time.Sleep(month) // and when it is
		look(ErrUpstream)
		look(ErrUpstream)
		if !k.ca.Issuer().Equal(first) || k.Events()[IssuerRenewalFailed] != 1 {
			t.Errorf("told %d times", k.Events()[IssuerRenewalFailed])
		}
		up.away = nil
		time.Sleep(lastUpstreamPause)
		look(nil)
		second := k.ca.Issuer()
		if second.Equal(first) || second.CheckSignatureFrom(former) != nil || k.Events()[IssuerRenewed] != 1 {
			t.Fatalf("the next issuer: %s", describe(second))
		}

		// Nodes have its next root before an issuer under it signs.
		up.another()
		time.Sleep(upstreamEvery)
		look(nil)
		if len(k.ca.Roots()) != 2 || k.Events()[RootAdded] != 1 || !k.ca.Issuer().Equal(second) {
			t.Fatalf("%d roots, %d told", len(k.ca.Roots()), k.Events()[RootAdded])
		}
		time.Sleep(2 * month)
		look(nil)
		third := k.ca.Issuer()
		if third.CheckSignatureFrom(up.root) != nil {
			t.Errorf("the issuer after: %s", describe(third))
		}

		// A root that comes when the issuer is due is waited with, too.
		time.Sleep(2 * month)
		up.another()
		look(nil)
		look(nil)
		if len(k.ca.Roots()) != 3 || !k.ca.Issuer().Equal(third) {
			t.Errorf("%d roots, the issuer %s", len(k.ca.Roots()), describe(k.ca.Issuer()))
		}
		time.Sleep(rootKnownFor)
		look(nil)
		if k.ca.Issuer().CheckSignatureFrom(up.root) != nil {
			t.Errorf("the issuer after ten minutes: %s", describe(k.ca.Issuer()))
		}
	})
}

func TestAnIssuerThatExpiredIsHadFromUpstreamAtTheNextStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAbove(t)
		k := underUpstream(t, up)
		if err := k.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * month)
		next := underUpstream(t, up)
		next.store = k.store
		if err := next.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		if up.signed != 2 || next.ca.Issuer().Equal(k.ca.Issuer()) {
			t.Errorf("%d issuers", up.signed)
		}
	})
}

// Whoever answers in Vault's place needs no token for that: what it says is its root must
// not keep the CA from its next start, nor reach the nodes.
func TestARootFromUpstreamThatWouldBeRefusedIsNotStored(t *testing.T) {
	expired := func(c *x509.Certificate) { c.NotBefore, c.NotAfter = time.Now().Add(-2*month), time.Now().Add(-month) }
	foreign := func(c *x509.Certificate) { c.URIs = []*url.URL{{Scheme: "spiffe", Host: "evil.example"}} }
	for name, bad := range map[string]func(up *above) *x509.Certificate{
		"a leaf": func(up *above) *x509.Certificate {
			return up.own(func(c *x509.Certificate) { c.IsCA = false; c.MaxPathLen = -1 })
		},
		"of another domain":    func(up *above) *x509.Certificate { return up.own(foreign) },
		"one that has expired": func(up *above) *x509.Certificate { return up.own(expired) },
		"one that may not sign": func(up *above) *x509.Certificate {
			return up.own(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature })
		},
		"one that others signed": func(up *above) *x509.Certificate { return up.below() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				up := newAbove(t)
				k := underUpstream(t, up)
				if err := k.Open(t.Context()); err != nil {
					t.Fatal(err)
				}
				up.says = []*x509.Certificate{bad(up)}
				for range 3 {
					if err := k.look(t.Context()); !errors.Is(err, ErrUpstream) {
						t.Errorf("a look: %v", err)
					}
					time.Sleep(time.Minute)
				}
				files, err := k.store.Read(t.Context())
				if err != nil || len(files.Roots()) != 1 || k.ca.Refuses(files) != nil || k.Events()[IssuerRenewalFailed] != 1 {
					t.Fatalf("%d roots, %v, told %d times", len(files.Roots()), k.ca.Refuses(files), k.Events()[IssuerRenewalFailed])
				}
				up.says = nil
				time.Sleep(upstreamEvery)
				if err := k.look(t.Context()); err != nil {
					t.Errorf("its root is the former one again: %v", err)
				}
			})
		})
	}
}

// own is a certificate that its own key has signed.
func (up *above) own(change func(*x509.Certificate)) *x509.Certificate {
	up.t.Helper()
	key, err := keyFor(nil, "")
	if err != nil {
		up.t.Fatal(err)
	}
	template := authorityTemplate("evil", td, 12*month, 1)
	change(template)
	cert, err := create(template, template, key.Public(), key)
	if err != nil {
		up.t.Fatal(err)
	}
	return cert
}

// below is an authority that it has signed.
func (up *above) below() *x509.Certificate {
	up.t.Helper()
	key, err := keyFor(nil, "")
	if err != nil {
		up.t.Fatal(err)
	}
	cert, err := create(authorityTemplate("between", td, 12*month, 1), up.root, key.Public(), up.key)
	if err != nil {
		up.t.Fatal(err)
	}
	return cert
}

// Each issuer that is refused was signed, and is in Vault for good.
func TestWhatIsRefusedIsNotAskedForAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAbove(t)
		up.bad = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }
		first := underUpstream(t, up)
		looks := func(k *Keeper, do func() error) {
			t.Helper()
			up.signed = 0
			for range 12 * 60 * 5 { // for twelve hours
				if err := do(); !errors.Is(err, ErrUpstream) {
					t.Fatalf("refused: %v", err)
				}
				time.Sleep(12 * time.Second)
			}
			if up.signed == 0 || up.signed > 85 {
				t.Errorf("%d issuers in twelve hours", up.signed)
			}
		}
		looks(first, func() error { return first.Open(t.Context()) })
		time.Sleep(lastUpstreamPause)
		up.bad = nil
		if err := first.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * month)
		up.bad = func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageDigitalSignature }
		looks(first, func() error { return first.look(t.Context()) })
		if n := first.Events()[IssuerRenewalFailed]; n == 0 || n > 85 {
			t.Errorf("told %d times", n)
		}
	})
}

// The name is how a CA is known as one that has its issuers from upstream.
func TestAnIssuerOfAnotherNameIsNotTakenFromUpstream(t *testing.T) {
	up := newAbove(t)
	up.bad = func(c *x509.Certificate) { c.Subject.CommonName = issuerName }
	if err := underUpstream(t, up).Open(t.Context()); !errors.Is(err, ErrUpstream) {
		t.Errorf("another name: %v", err)
	}
}

// A root whose key is kept elsewhere is as much the operator's as one whose key is here.
func TestACAWhoseRootIsOfflineIsNotTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAbove(t)
		k := underUpstream(t, up)
		files, err := Make(Options{TrustDomain: td, IssuerTTL: 4 * month})
		if err != nil {
			t.Fatal(err)
		}
		delete(files, RootKeyFile)
		k.store.(*Memory).Set(files)
		if err := k.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := k.look(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(3 * month)
		}
		if len(k.ca.Roots()) != 1 || up.signed != 0 || k.Renewal().State != RenewalOffline {
			t.Errorf("%d roots, %d issuers from above, renewal %q", len(k.ca.Roots()), up.signed, k.Renewal().State)
		}
	})
}

// The CA was off for so long that its issuer is over, and the root above is another by now.
func TestAnIssuerThatExpiredIsHadUnderAnotherRoot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		up := newAbove(t)
		k := underUpstream(t, up)
		if err := k.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(4 * month)
		up.another()
		next := underUpstream(t, up)
		next.store = k.store
		for range 2 { // the root comes first
			next.Open(t.Context())
		}
		if next.Waiting() != nil || next.ca.Issuer().CheckSignatureFrom(up.root) != nil || len(next.ca.Roots()) != 2 {
			t.Errorf("waiting for %v", next.Waiting())
		}
	})
}

// What a CA had before goes on as it was.
func TestACAWithARootOfItsOwnIsNotTakenOver(t *testing.T) {
	up := newAbove(t)
	k := underUpstream(t, up)
	files, err := Make(Options{TrustDomain: td, IssuerTTL: 50 * time.Second}) // half its life is over
	if err != nil {
		t.Fatal(err)
	}
	k.share = 0
	k.store.(*Memory).Set(files)
	if err := k.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := k.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if up.signed != 0 || k.Renewal().State != RenewalAutomatic || k.Events()[IssuerRenewed] != 1 {
		t.Errorf("%d issuers from above, renewal %q", up.signed, k.Renewal().State)
	}
}
