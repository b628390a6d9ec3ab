// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// provider publishes keys.
type provider struct {
	*httptest.Server
	mu        sync.Mutex
	keys      []byte
	discovery string // a format with the issuer's URL; the good one
	handle    http.HandlerFunc
	asked     map[string]int
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{keys: jwks(t, goodKeys()...), discovery: `{"issuer": "%[1]s", "jwks_uri": "%[1]s/keys"}`, asked: map[string]int{}}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked[r.URL.Path]++
		switch {
		case p.handle != nil:
			p.handle(w, r)
		case r.URL.Path == "/.well-known/openid-configuration":
			fmt.Fprintf(w, p.discovery, p.URL)
		case r.URL.Path == "/keys":
			w.Write(p.keys)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) change(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

func (p *provider) looks() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked["/.well-known/openid-configuration"]
}

func (p *provider) attestor(t *testing.T) *OIDC {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AddCert(p.Certificate())
	return must(NewOIDC(p.URL, roots, Expected{}, nil))
}

func (p *provider) token(t *testing.T, kid string) string {
	return mint(t, jose.ES256, esKey, kid, with("iss", p.URL))
}

// later lets time pass for what o remembers.
func (o *OIDC) later(d time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.got, o.tried = o.got.Add(-d), o.tried.Add(-d)
}

func TestTheKeysOfAnIssuerVerifyTokens(t *testing.T) {
	p := newProvider(t)
	o := p.attestor(t)
	for range 20 {
		if caller, err := o.Attest(t.Context(), p.token(t, "es")); err != nil || caller.Node != "node-1" {
			t.Fatalf("%+v, %v", caller, err)
		}
	}
	if n := p.looks(); n != 1 {
		t.Errorf("the issuer was asked %d times for 20 tokens", n)
	}
	// Dapr's CWE-346: who is asked, and who counts as the issuer, no request decides.
	if _, err := o.Attest(t.Context(), goodToken(t)); err == nil || !strings.Contains(err.Error(), "issuer") {
		t.Errorf("a token of another issuer: %v", err)
	}
}

func TestAnIssuerThatChangesItsKeysIsFollowed(t *testing.T) {
	p := newProvider(t)
	o := p.attestor(t)
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	p.change(func() {
		p.keys = jwks(t, jose.JSONWebKey{Key: &esKey.PublicKey, KeyID: "next", Use: "sig", Algorithm: "ES256"})
	})
	for range 50 { // a stranger may name any key
		if _, err := o.Attest(t.Context(), p.token(t, "next")); err == nil {
			t.Fatal("it was asked a moment ago, and again")
		}
	}
	if n := p.looks(); n != 1 {
		t.Errorf("50 unknown keys had the issuer asked %d times", n)
	}
	o.later(oidcPause)
	if _, err := o.Attest(t.Context(), p.token(t, "next")); err != nil {
		t.Errorf("half a minute later: %v", err)
	}
	if _, err := o.Attest(t.Context(), p.token(t, "es")); err == nil {
		t.Error("the key that was taken back is good, still")
	}
}

func TestAnIssuerThatIsAwayKeepsNodesForAWhile(t *testing.T) {
	p := newProvider(t)
	o := p.attestor(t)
	token := p.token(t, "es")
	if err := o.Check(); err != nil {
		t.Fatal(err)
	}
	p.change(func() {
		p.handle = func(w http.ResponseWriter, r *http.Request) { http.Error(w, "down", http.StatusServiceUnavailable) }
	})
	o.later(oidcHold - time.Minute)
	if _, err := o.Attest(t.Context(), token); err != nil {
		t.Errorf("before %v: %v", oidcHold, err)
	}
	o.later(2 * time.Minute)
	if _, err := o.Attest(t.Context(), token); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "503") {
		t.Errorf("after %v: %v", oidcHold, err)
	}
	p.change(func() { p.handle = nil })
	o.later(oidcPause)
	if _, err := o.Attest(t.Context(), token); err != nil {
		t.Errorf("it is back: %v", err)
	}
}

// CVE-2026-41413: nobody leads the CA to another host.
func TestWhatAnIssuerMayNotPublish(t *testing.T) {
	elsewhere := newProvider(t)
	for name, spoil := range map[string]func(*provider){
		"redirect": func(p *provider) {
			p.handle = func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL+r.URL.Path, http.StatusFound)
			}
		},
		"want https and the issuer's host": func(p *provider) { p.discovery = `{"issuer": "%s", "jwks_uri": "` + elsewhere.URL + `/keys"}` },
		"http://169.254.169.254":           func(p *provider) { p.discovery = `{"issuer": "%s", "jwks_uri": "http://169.254.169.254/"}` },
		`of the issuer "https://other"`:    func(p *provider) { p.discovery = `{"issuer": "https://other", "jwks_uri": "%s/keys"}` },
		"no JSON":                          func(p *provider) { p.discovery = "<html>%s" },
		"longer than":                      func(p *provider) { p.discovery = strings.Repeat(" ", maxJWKS) + "%s" },
		"key 0 is private or symmetric":    func(p *provider) { p.keys = jwks(t, jose.JSONWebKey{Key: esKey, KeyID: "es"}) },
		"it is JSON, but no JWKS":          func(p *provider) { p.keys = []byte("[]") },
		"404":                              func(p *provider) { p.discovery = `{"issuer": "%[1]s", "jwks_uri": "%[1]s/none"}` },
	} {
		p := newProvider(t)
		spoil(p)
		_, err := p.attestor(t).Attest(t.Context(), p.token(t, "es"))
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		//lint:ignore SA1019 what must not be in a text, in its own words
		if strings.Contains(fmt.Sprint(err), esKey.D.String()) {
			t.Errorf("%s: the key is in the error", name)
		}
	}
	if n := len(elsewhere.asked); n != 0 {
		t.Errorf("another host was asked: %v", elsewhere.asked)
	}
	p := newProvider(t)
	o := must(NewOIDC(p.URL, nil, Expected{}, nil)) // the system does not vouch for it
	if _, err := o.Attest(t.Context(), p.token(t, "es")); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	for _, issuer := range []string{"http://issuer.test", "issuer.test", "https://", "https://a@issuer.test", "https://issuer.test?x", "https://issuer.test#x", ":"} {
		if _, err := NewOIDC(issuer, nil, Expected{}, nil); err == nil {
			t.Errorf("%s is an issuer", issuer)
		}
	}
}
