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
	cert, err := create(authorityTemplate(name, td, ttl, 0), up.root, request.PublicKey, up.key)
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
