// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

// reviewed is a TokenReview with its API server.
type reviewed struct {
	*TokenReview
	t         *testing.T
	api       *kubetest.Server
	away      bool // it refuses connections
	silent    bool
	placement *Placement
}

// RoundTrip is the way to the API server, without a network: tests in a bubble wait
// for nobody outside.
func (r *reviewed) RoundTrip(request *http.Request) (*http.Response, error) {
	if r.away {
		return nil, errors.New("connection refused")
	}
	if r.silent {
		<-request.Context().Done()
		return nil, request.Context().Err()
	}
	answer := httptest.NewRecorder()
	r.api.ServeHTTP(answer, request)
	if err := request.Context().Err(); err != nil {
		return nil, err
	}
	return answer.Result(), nil
}

// agent is the live pod of the good token.
var agent = Agent{UID: "pod-uid", Name: "ztunnel-abc", ServiceAccount: ztunnel, Node: "node-1"}

// newReviewed has an API server that vouches for every token as for the good one.
func newReviewed(t *testing.T) *reviewed {
	t.Helper()
	r := &reviewed{t: t, api: kubetest.New(), placement: NewPlacement()}
	r.placement.Replace(nil, []Agent{agent})
	r.vouch(func(*authenticationv1.TokenReviewStatus) {})
	r.TokenReview = must(NewTokenReview(&rest.Config{Host: "http://api.test", QPS: -1, Transport: r},
		TokenReviewOptions{Placement: r.placement, NodeAccounts: []identity.ServiceAccount{ztunnel}}))
	return r
}

// vouched is a good answer.
func vouched(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
	return authenticationv1.TokenReviewStatus{
		Authenticated: true, Audiences: spec.Audiences,
		User: authenticationv1.UserInfo{Username: "system:serviceaccount:culvert-system:ztunnel", Extra: map[string]authenticationv1.ExtraValue{
			"authentication.kubernetes.io/pod-name": {"ztunnel-abc"}, "authentication.kubernetes.io/pod-uid": {"pod-uid"},
			"authentication.kubernetes.io/node-name": {"node-1"}, "authentication.kubernetes.io/node-uid": {"node-uid"},
			"authentication.kubernetes.io/credential-id": {"JTI=token-1"},
		}},
	}
}

// vouch changes the API server's answer from a good one.
func (r *reviewed) vouch(change func(*authenticationv1.TokenReviewStatus)) {
	r.api.Vouch(func(spec authenticationv1.TokenReviewSpec) authenticationv1.TokenReviewStatus {
		status := vouched(spec)
		change(&status)
		return status
	})
}

// forget what the API server said.
func (r *reviewed) forget() {
	r.proofs.mu.Lock()
	defer r.proofs.mu.Unlock()
	clear(r.proofs.byPod)
}

func (r *reviewed) reviews() int { return r.api.Asked("create tokenreviews") }

// refuses wants a reason and a text for a token.
func (r *reviewed) refuses(token string, reason identityv1.Reason, text string) {
	r.t.Helper()
	_, err := r.Attest(r.t.Context(), token)
	var refused *Refused
	if !errors.As(err, &refused) || refused.Reason != reason || !strings.Contains(err.Error(), text) {
		r.t.Errorf("%v, want %v and %q", err, reason, text)
	}
	if errors.Is(err, ErrUnavailable) {
		r.t.Errorf("%v: our fault?", err)
	}
}

func TestATokenThatKubernetesVouchesForIsItsPods(t *testing.T) {
	r := newReviewed(t)
	var asked []string
	r.vouch(func(s *authenticationv1.TokenReviewStatus) { asked = append(asked, s.Audiences...) })
	got, err := r.Attest(t.Context(), goodToken(t))
	want := Caller{ServiceAccount: ztunnel, Node: "node-1", NodeUID: "node-uid", Pod: "ztunnel-abc", PodUID: "pod-uid", TokenID: "JTI=token-1"}
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if len(asked) != 1 || asked[0] != Audience {
		t.Errorf("asked for the audiences %v", asked)
	}
}

// What a token itself shows to be of no use costs the API server nothing.
func TestTokensThatKubernetesIsNotAskedAbout(t *testing.T) {
	r := newReviewed(t)
	mine := func(claims any) string { return mint(t, jose.ES256, esKey, "es", claims) }
	now := time.Now().Unix()
	r.refuses("junk", identityv1.Reason_TOKEN_MALFORMED, "parse token")
	r.refuses("a.b.c", identityv1.Reason_TOKEN_MALFORMED, "parse token")
	r.refuses(mine(with("aud", "https://kubernetes.default.svc")), identityv1.Reason_TOKEN_AUDIENCE_WRONG, `want "culvert-identity"`)
	r.refuses(mine(with("exp", now-31)), identityv1.Reason_TOKEN_EXPIRED, "expired")
	r.refuses(mine(with("exp", nil)), identityv1.Reason_TOKEN_MALFORMED, "never expires")
	r.refuses(mine(with("nbf", now+120)), identityv1.Reason_TOKEN_NOT_YET_VALID, "not valid before")
	r.refuses(mine(withIn("node", nil)), identityv1.Reason_TOKEN_NODE_MISSING, "node.name is missing")
	r.refuses(mine(withIn("pod", nil)), identityv1.Reason_TOKEN_POD_MISSING, "not bound to a pod")
	other := withIn("serviceaccount", map[string]any{"name": "other"})
	other["sub"] = "system:serviceaccount:culvert-system:other"
	r.refuses(mine(other), identityv1.Reason_ACCOUNT_NOT_TRUSTED, "culvert-system/other does not speak for nodes")
	if n := r.reviews(); n != 0 {
		t.Errorf("the API server was asked %d times", n)
	}
}

// What Kubernetes says counts, not the claims that led to the question.
// A001-3: a token counts for its own pod and node alone.
func TestWhatKubernetesSaysOfAToken(t *testing.T) {
	extra := func(key string, values ...string) func(*authenticationv1.TokenReviewStatus) {
		return func(s *authenticationv1.TokenReviewStatus) {
			s.User.Extra["authentication.kubernetes.io/"+key] = values
		}
	}
	for _, test := range []struct {
		name   string
		answer func(*authenticationv1.TokenReviewStatus)
		reason identityv1.Reason
		want   string
	}{
		{"not authenticated", func(s *authenticationv1.TokenReviewStatus) {
			*s = authenticationv1.TokenReviewStatus{Error: "signature wrong"}
		}, identityv1.Reason_TOKEN_REFUSED, "Kubernetes refuses the token: signature wrong"},
		{"audiences unknown to the server", func(s *authenticationv1.TokenReviewStatus) { s.Audiences = nil }, identityv1.Reason_TOKEN_AUDIENCE_WRONG, "want"},
		{"another audience", func(s *authenticationv1.TokenReviewStatus) { s.Audiences = []string{"istio-ca"} }, identityv1.Reason_TOKEN_AUDIENCE_WRONG, `["istio-ca"]`},
		{"a person", func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "admin" }, identityv1.Reason_ACCOUNT_NOT_TRUSTED, `"admin"`},
		{"a person named like one", func(s *authenticationv1.TokenReviewStatus) { s.User.Username = "culvert-system:ztunnel" }, identityv1.Reason_ACCOUNT_NOT_TRUSTED, "no ServiceAccount"},
		{"another ServiceAccount", func(s *authenticationv1.TokenReviewStatus) {
			s.User.Username = "system:serviceaccount:shop:web"
		}, identityv1.Reason_ACCOUNT_NOT_TRUSTED, "shop/web"},
		{"no pod", extra("pod-uid"), identityv1.Reason_TOKEN_POD_MISSING, "no pod"},
		{"two pods", extra("pod-uid", "pod-uid", "b"), identityv1.Reason_TOKEN_POD_MISSING, "no pod"},
		{"no node", extra("node-name"), identityv1.Reason_TOKEN_NODE_MISSING, "1.30 or newer"},
		{"another node than the pod's", extra("node-name", "node-2"), identityv1.Reason_TOKEN_POD_DIFFERS, "runs on node node-1, and the token says node-2"},
		{"another pod of that UID", extra("pod-name", "ztunnel-xyz"), identityv1.Reason_TOKEN_POD_DIFFERS, "is ztunnel-abc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := newReviewed(t)
			r.vouch(test.answer)
			r.refuses(goodToken(t), test.reason, test.want)
		})
	}
}

func TestATokenOfAPodThatIsGone(t *testing.T) {
	r := newReviewed(t)
	r.placement.Replace(nil, []Agent{{UID: "another", Name: agent.Name, ServiceAccount: ztunnel, Node: "node-1"}})
	r.refuses(goodToken(t), identityv1.Reason_TOKEN_POD_GONE, "culvert-system/ztunnel-abc of UID pod-uid, is gone")
	r.vouch(func(s *authenticationv1.TokenReviewStatus) {
		*s = authenticationv1.TokenReviewStatus{Error: "service account token has been invalidated"}
	})
	r.refuses(goodToken(t), identityv1.Reason_TOKEN_POD_GONE, "(service account token has been invalidated)")
}

func TestAnAPIServerThatCannotSayIsAskedAgain(t *testing.T) {
	r := newReviewed(t)
	away := func(text string) {
		t.Helper()
		_, err := r.Attest(t.Context(), goodToken(t))
		var refused *Refused
		if !errors.Is(err, ErrUnavailable) || !errors.As(err, &refused) || refused.Reason != identityv1.Reason_API_UNAVAILABLE || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want that it is unavailable, and %q", err, text)
		}
	}
	r.api.Refuse("create tokenreviews", apierrors.NewInternalError(errors.New("etcd is away")))
	away("etcd is away")
	r.api.Refuse("create tokenreviews", nil)
	if _, err := r.Attest(t.Context(), goodToken(t)); err != nil {
		t.Error(err)
	}
	r.forget()
	r.away = true
	away("connection refused")
}
