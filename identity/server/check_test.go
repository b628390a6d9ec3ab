// SPDX-License-Identifier: Apache-2.0

package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

func TestNodeWithoutAPodIsToldThatTheCAWouldSign(t *testing.T) {
	r := newRig(t, nil)
	r.cfg.Placement.Replace(nil, nil)
	answer, err := r.Check(withToken(t.Context(), goodToken(t)), &identityv1.CheckRequest{})
	if err != nil || answer.GetTrustDomain() != "cluster.local" || answer.GetNode() != "node-1" {
		t.Errorf("%v, %v", answer, err)
	}
	if lines := r.log.take(t); len(lines) != 0 {
		t.Errorf("a node that asks again and again fills the log: %v", lines)
	}
	if got := len(r.inFlight); got != 0 {
		t.Errorf("%d in flight", got)
	}
	if _, body := get(t, r.Handler(), "/metrics"); !strings.Contains(body, `culvert_identity_node_checks_total{code="OK"} 1`) {
		t.Error("not counted")
	}
}

// What Check refuses, CreateCertificate refuses, in the same words.
func TestCheckRefusesWhatCreateCertificateWould(t *testing.T) {
	now := time.Now().Unix()
	stranger := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for _, test := range []struct {
		name, token string
		code        codes.Code
		reason      identityv1.Reason
		text        string
	}{
		{"no token", "", codes.Unauthenticated, identityv1.Reason_TOKEN_MALFORMED, "bearer token"},
		{"garbage", "a.b.c", codes.Unauthenticated, identityv1.Reason_TOKEN_MALFORMED, "parse token"},
		{"expired", mint(t, "ES256", esKey, "es", with("exp", now-31)), codes.Unauthenticated, identityv1.Reason_TOKEN_EXPIRED,
			time.Unix(now-31, 0).UTC().Format(time.RFC3339)},
		{"of tomorrow", mint(t, "ES256", esKey, "es", with("nbf", now+120)), codes.Unauthenticated, identityv1.Reason_TOKEN_NOT_YET_VALID, "clock"},
		{"unknown key", mint(t, "ES256", esKey, "other", tokenClaims()), codes.Unauthenticated, identityv1.Reason_TOKEN_KEY_UNKNOWN, `"other"`},
		{"forged", mint(t, "ES256", stranger, "es", tokenClaims()), codes.Unauthenticated, identityv1.Reason_TOKEN_SIGNATURE_WRONG, "signature"},
		{"other audience", mint(t, "ES256", esKey, "es", with("aud", "istio-ca")), codes.Unauthenticated, identityv1.Reason_TOKEN_AUDIENCE_WRONG,
			`["istio-ca"], want "culvert-identity"`},
		{"of another cluster", mint(t, "ES256", esKey, "es", with("iss", "")), codes.Unauthenticated, identityv1.Reason_TOKEN_ISSUER_WRONG, "names no issuer"},
		{"valid for a week", mint(t, "ES256", esKey, "es", with("exp", now+7*86400)), codes.Unauthenticated, identityv1.Reason_TOKEN_LIVES_TOO_LONG, "longer than 24h"},
		{"no node", mint(t, "ES256", esKey, "es", withIn("node", nil)), codes.Unauthenticated, identityv1.Reason_TOKEN_NODE_MISSING, "not bound"},
		{"an app's account", mint(t, "ES256", esKey, "es", func() map[string]any {
			claims := withIn("serviceaccount", map[string]any{"name": "web"})
			claims["sub"] = "system:serviceaccount:culvert-system:web"
			return claims
		}()), codes.PermissionDenied, identityv1.Reason_ACCOUNT_NOT_TRUSTED, "does not speak for nodes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newRig(t, nil)
			ctx := withToken(t.Context(), test.token)
			_, err := r.Check(ctx, &identityv1.CheckRequest{})
			wantStatus(t, err, test.code, test.text)
			if got := reasonOf(err); got != test.reason {
				t.Errorf("reason %v, want %v", got, test.reason)
			}
			_, other := r.CreateCertificate(ctx, goodRequest(t))
			if other == nil || other.Error() != err.Error() || reasonOf(other) != test.reason {
				t.Errorf("CreateCertificate: %v, %v", other, reasonOf(other))
			}
			if got := len(r.inFlight); got != 0 {
				t.Errorf("%d in flight", got)
			}
			if lines := r.log.take(t); len(lines) != 2 || lines[0]["msg"] != "node refused" || lines[0]["reason"] != status.Convert(err).Message() {
				t.Errorf("log %v", lines)
			}
		})
	}
}

func TestCheckSaysThatTheCACannotSignYetOrAnyMore(t *testing.T) {
	want := func(t *testing.T, r *rig, code codes.Code, reason identityv1.Reason, text string) {
		t.Helper()
		_, err := r.Check(withToken(t.Context(), goodToken(t)), &identityv1.CheckRequest{})
		wantStatus(t, err, code, text)
		if got := reasonOf(err); got != reason {
			t.Errorf("reason %v, want %v", got, reason)
		}
	}
	r := newRig(t, func(c *Config) { c.Placement = NewPlacement() })
	want(t, r, codes.Unavailable, identityv1.Reason_CA_NOT_READY, "what runs where")

	r = newRig(t, nil)
	if err := os.Remove(r.jwks); err != nil {
		t.Fatal(err)
	}
	want(t, r, codes.Unavailable, identityv1.Reason_CA_NOT_READY, r.jwks)

	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.CA = must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td, IssuerTTL: time.Hour}))
		})
		want(t, r, codes.OK, identityv1.Reason_REASON_UNSPECIFIED, "")
		time.Sleep(time.Hour) // bubble time
		want(t, r, codes.FailedPrecondition, identityv1.Reason_CA_EXPIRED, "expired")
	})
}

func TestCheckTakesItsNodesShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.NodeRate, c.NodeBurst = 1, 2 })
		ctx := withToken(t.Context(), goodToken(t))
		for range 2 {
			if _, err := r.Check(ctx, &identityv1.CheckRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		_, err := r.Check(ctx, &identityv1.CheckRequest{})
		wantStatus(t, err, codes.ResourceExhausted, "too often")
		if got := reasonOf(err); got != identityv1.Reason_TOO_MANY_REQUESTS {
			t.Errorf("reason %v", got)
		}
	})
}

func TestRefusedIdentitiesAreToldApart(t *testing.T) {
	r := newRig(t, nil)
	ask := func(id string) identityv1.Reason {
		request := goodRequest(t)
		request.Metadata.Fields[identityv1.ImpersonatedIdentity].Kind = structpb.NewStringValue(id).GetKind()
		_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
		return reasonOf(err)
	}
	if got := ask("spiffe://elsewhere/ns/shop/sa/web"); got != identityv1.Reason_TRUST_DOMAIN_WRONG {
		t.Errorf("another trust domain: %v", got)
	}
	if got := ask("spiffe://cluster.local/ns/shop/sa/db"); got != identityv1.Reason_NOT_PLACED {
		t.Errorf("a pod of another node: %v", got)
	}
}

func TestACAThatIsNotOpenYetIsTriedAgainLater(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.CA = must(ca.New(ca.Options{TrustDomain: td}))
		c.Waiting = func() error { return errors.New("the Secret is not there yet") }
	})
	_, err := r.Check(withToken(t.Context(), goodToken(t)), &identityv1.CheckRequest{})
	wantStatus(t, err, codes.Unavailable, "not open yet")
	_, err = r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.Unavailable, "not open yet")
	if code, body := get(t, r.Handler(), "/healthz/ready"); code != http.StatusServiceUnavailable || !strings.Contains(body, "the Secret is not there yet") {
		t.Errorf("%d %q", code, body)
	}
}
