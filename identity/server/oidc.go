// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

const (
	// oidcFresh is how long published keys are good without a look.
	oidcFresh = 10 * time.Minute
	// oidcPause is the least time from one look to the next, whatever tokens name.
	oidcPause = 30 * time.Second
	// oidcHold is how long keys hold while their publisher is away.
	oidcHold = 12 * time.Hour
	// oidcWithin is how long a look may take.
	oidcWithin = 5 * time.Second
)

// OIDC is the Attestor for tokens shaped like those that Kubernetes projects into a pod,
// signed by a key that their issuer publishes, as OpenID Connect Discovery 1.0 says.
type OIDC struct {
	issuer    *url.URL
	expected  Expected
	placement *Placement
	client    *http.Client

	looking sync.Mutex // held for a look

	mu    sync.Mutex // guards what follows
	keys  []jose.JSONWebKey
	got   time.Time // when keys were published
	tried time.Time // when the last look began
	wrong error     // of the last look
}

// NewOIDC returns one that has not looked yet. Issuer is an https URL; nothing but it
// decides whom to ask: no token, no header, no redirect, and no document of another host.
// Roots are of those who vouch for the issuer's server; nil: the system's.
func NewOIDC(issuer string, roots *x509.CertPool, expected Expected, placement *Placement) (*OIDC, error) {
	u, err := OIDCIssuer(issuer)
	if err != nil {
		return nil, err
	}
	expected = expected.withDefaults()
	expected.Issuer = issuer
	return &OIDC{
		issuer: u, expected: expected, placement: placement,
		client: &http.Client{
			Timeout:       oidcWithin,
			CheckRedirect: func(*http.Request, []*http.Request) error { return errors.New("a redirect, which is not followed") },
			Transport: &http.Transport{
				Proxy: nil, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}, MaxResponseHeaderBytes: 16 << 10,
				DisableKeepAlives: true, // it is asked seldom
			},
		},
	}, nil
}

// OIDCIssuer reads the URL of an issuer.
func OIDCIssuer(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, err
	case u.Scheme != "https" || u.Host == "":
		return nil, fmt.Errorf("%q: want a URL as https://issuer.example.org", text)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("%q: an issuer has no user, query or fragment", text)
	}
	return u, nil
}

// Attest verifies the token by keys of the issuer. If it names one that is not known, the
// issuer may have another by now: it is asked, but not all the time.
func (o *OIDC) Attest(ctx context.Context, token string) (Caller, error) {
	keys, err := o.known(ctx)
	if err != nil {
		return Caller{}, err
	}
	claims, err := verify(token, keys)
	var refused *Refused
	if errors.As(err, &refused) && refused.Reason == identityv1.Reason_TOKEN_KEY_UNKNOWN && o.look(ctx) {
		if keys, err = o.known(ctx); err != nil {
			return Caller{}, err
		}
		claims, err = verify(token, keys)
	}
	if err != nil {
		return Caller{}, err
	}
	caller, err := claims.caller(o.expected)
	if err == nil && o.placement != nil {
		err = o.placement.alive(ctx, caller)
	}
	if err != nil {
		return Caller{}, err
	}
	return caller, nil
}

// Check says why no token can be verified now, or nil.
func (o *OIDC) Check() error {
	_, err := o.known(context.Background())
	return err
}

// known returns the keys, which are looked for if they are not fresh.
func (o *OIDC) known(ctx context.Context) ([]jose.JSONWebKey, error) {
	o.mu.Lock()
	stale := time.Since(o.got) > oidcFresh
	o.mu.Unlock()
	if stale {
		o.look(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if age := time.Since(o.got); age > oidcHold {
		return nil, fmt.Errorf("%w: keys of %v: %v", ErrUnavailable, o.issuer, o.wrong)
	}
	return o.keys, nil
}

// look asks the issuer, unless somebody has a moment ago, and reports whether the keys are
// younger than they were. Who finds another looking waits for that only if there are no
// keys yet.
func (o *OIDC) look(ctx context.Context) (younger bool) {
	o.mu.Lock()
	before, none := o.got, o.keys == nil
	o.mu.Unlock()
	if none {
		o.looking.Lock()
	} else if !o.looking.TryLock() {
		return false
	}
	defer o.looking.Unlock()
	o.mu.Lock()
	if !o.tried.IsZero() && time.Since(o.tried) < oidcPause {
		defer o.mu.Unlock()
		return o.got.After(before)
	}
	o.tried = time.Now()
	o.mu.Unlock()
	keys, err := o.published(context.WithoutCancel(ctx)) // a caller that leaves ends nobody's look
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.wrong = err; err == nil {
		o.keys, o.got = keys, time.Now()
	}
	return err == nil
}

// published reads the issuer's discovery document, and the keys that it leads to.
func (o *OIDC) published(ctx context.Context) ([]jose.JSONWebKey, error) {
	var discovery struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	text, err := o.get(ctx, strings.TrimSuffix(o.issuer.String(), "/")+"/.well-known/openid-configuration")
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, &discovery); err != nil {
		return nil, fmt.Errorf("the discovery document is no JSON: %v", err)
	}
	keys, err := url.Parse(discovery.JWKSURI)
	switch {
	case discovery.Issuer != o.expected.Issuer:
		return nil, fmt.Errorf("the discovery document is of the issuer %.200q", discovery.Issuer)
	case err != nil || keys.Scheme != "https" || keys.Host != o.issuer.Host || keys.User != nil:
		return nil, fmt.Errorf("jwks_uri %.200q: want https and the issuer's host", discovery.JWKSURI)
	}
	if text, err = o.get(ctx, keys.String()); err != nil {
		return nil, err
	}
	return parseJWKS(text)
}

func (o *OIDC) get(ctx context.Context, address string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept", "application/json")
	answer, err := o.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", address, answer.Status)
	}
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxJWKS+1))
	if err == nil && len(text) > maxJWKS {
		err = fmt.Errorf("%s: longer than %d bytes", address, maxJWKS)
	}
	return text, err
}
