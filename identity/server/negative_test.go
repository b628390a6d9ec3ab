// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authenticationv1 "k8s.io/api/authentication/v1"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/deny"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// attempt is one request to a real server, by gRPC and TLS, about whose tokens an API
// server is asked. Untouched, it is answered by a certificate.
type attempt struct {
	t       *testing.T
	api     *reviewed
	ca      *rig
	denied  *deny.Set
	claims  map[string]any
	request *identityv1.IstioCertificateRequest
}

func newAttempt(t *testing.T) *attempt {
	t.Helper()
	a := &attempt{t: t, api: newReviewed(t), denied: deny.NewSet(), claims: tokenClaims(), request: goodRequest(t)}
	a.denied.Replace(0, nil)
	a.ca = newRig(t, func(c *Config) {
		c.Attestor, c.Placement, c.Denied, c.IDBurst = a.api.TokenReview, a.api.placement, a.denied, 2
	})
	a.runs(Running{Node: "node-1", ServiceAccount: web, UID: "web-uid"})
	return a
}

func (a *attempt) runs(pods ...Running) { a.api.placement.Replace(pods, []Agent{agent}) }

func (a *attempt) deny(entries ...deny.Entry) { a.denied.Replace(0, entries) }

// nodeIs has the API server say what UID the token's node has.
func (a *attempt) nodeIs(uid string, found bool, err error) {
	a.api.placement.AskNode = func(context.Context, string) (string, bool, error) { return uid, found, err }
}

func (a *attempt) asksFor(id string) {
	a.request.Metadata = must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: id}))
}

func (a *attempt) csr(key any, spoil func(der []byte)) {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	spoil(der)
	a.request.Csr = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// C.3 of the specification: who may have which identity is asked in nine checks. Each
// row fails one of them, and each has a word of its own and a record that an operator
// finds. A001-3: the token of another pod; A002-13: the API server's audience, and a token
// of no pod; A004-10: another trust domain.
func TestWhoMayNotHaveAnIdentity(t *testing.T) {
	same := func([]byte) {}
	p256 := func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }
	for _, test := range []struct {
		name   string
		check  int // of C.3
		spoil  func(*attempt)
		code   codes.Code
		reason identityv1.Reason
		text   string
	}{
		{"a token for the API server itself", 1, func(a *attempt) { a.claims["aud"] = "https://kubernetes.default.svc" },
			codes.Unauthenticated, identityv1.Reason_TOKEN_AUDIENCE_WRONG, `want "culvert-identity"`},
		{"a token that Kubernetes does not know", 1, func(a *attempt) {
			a.api.vouch(func(s *authenticationv1.TokenReviewStatus) {
				*s = authenticationv1.TokenReviewStatus{Error: "invalid signature"}
			})
		}, codes.Unauthenticated, identityv1.Reason_TOKEN_REFUSED, "invalid signature"},
		{"an app's own token", 1, func(a *attempt) {
			a.claims["sub"] = "system:serviceaccount:shop:web"
			k := a.claims["kubernetes.io"].(map[string]any)
			k["namespace"], k["serviceaccount"] = "shop", map[string]any{"name": "web", "uid": "sa-uid"}
		}, codes.PermissionDenied, identityv1.Reason_ACCOUNT_NOT_TRUSTED, "shop/web does not speak for nodes"},
		{"a token of no pod", 1, func(a *attempt) { delete(a.claims["kubernetes.io"].(map[string]any), "pod") },
			codes.Unauthenticated, identityv1.Reason_TOKEN_POD_MISSING, "kubernetes.io.pod"},
		{"the token of a pod that is gone", 2, func(a *attempt) { a.api.placement.Replace(nil, nil) },
			codes.Unauthenticated, identityv1.Reason_TOKEN_POD_GONE, "of UID pod-uid, is gone"},
		{"the token of a pod on another node", 2, func(a *attempt) {
			other := agent
			other.Node = "node-2"
			a.api.placement.Replace(nil, []Agent{other})
		}, codes.Unauthenticated, identityv1.Reason_TOKEN_POD_DIFFERS, "runs on node node-2, and the token says node-1"},
		{"the token of a pod that only has the ServiceAccount", 2, func(a *attempt) {
			stranger := agent
			stranger.Foreign = "it is of no DaemonSet, want ztunnel"
			a.api.placement.Replace(nil, []Agent{stranger})
		}, codes.Unauthenticated, identityv1.Reason_TOKEN_POD_FOREIGN, "does not speak for its node: it is of no DaemonSet, want ztunnel"},
		{"the token of a node that was made anew", 2, func(a *attempt) { a.nodeIs("another", true, nil) },
			codes.Unauthenticated, identityv1.Reason_TOKEN_NODE_DIFFERS, "of a node node-1 of UID node-uid; the one of that name has the UID another"},
		{"the token of a node that is gone", 2, func(a *attempt) { a.nodeIs("", false, nil) },
			codes.Unauthenticated, identityv1.Reason_TOKEN_NODE_DIFFERS, "node-1 of UID node-uid, is gone"},
		{"the token of a node that nobody knows of", 2, func(a *attempt) { a.nodeIs("", false, errors.New("nodes is forbidden")) },
			codes.Unavailable, identityv1.Reason_API_UNAVAILABLE, "the UID of the token's node: nodes is forbidden"},
		{"an identity of another trust domain", 3, func(a *attempt) { a.asksFor("spiffe://example.org/ns/shop/sa/web") },
			codes.PermissionDenied, identityv1.Reason_TRUST_DOMAIN_WRONG, "spiffe://example.org/ns/shop/sa/web is not of the trust domain cluster.local"},
		{"what is no identity", 3, func(a *attempt) { a.asksFor("spiffe://cluster.local/ns/../sa/web") },
			codes.InvalidArgument, identityv1.Reason_ID_MALFORMED, "dot segments"},
		{"an RSA key", 3, func(a *attempt) { a.csr(rsKey, same) },
			codes.InvalidArgument, identityv1.Reason_KEY_NOT_ALLOWED, "RSA of 2048 bits"},
		{"another's key", 4, func(a *attempt) { a.csr(p256(), func(der []byte) { der[len(der)-1] ^= 1 }) },
			codes.InvalidArgument, identityv1.Reason_KEY_NOT_PROVED, "signature of the CSR"},
		{"no CSR", 4, func(a *attempt) { a.request.Csr = "x" }, codes.InvalidArgument, identityv1.Reason_CSR_MALFORMED, "csr: "},
		{"a ServiceAccount of another node", 5, func(a *attempt) { a.runs(Running{Node: "node-2", ServiceAccount: web, UID: "u"}) },
			codes.PermissionDenied, identityv1.Reason_NOT_PLACED, "runs on node node-1"},
		{"a pod outside the mesh", 5, func(a *attempt) {
			a.runs(Running{Node: "node-1", ServiceAccount: web, UID: "u", Outside: "no label puts pod shop/web-1 into the mesh"})
		}, codes.PermissionDenied, identityv1.Reason_NOT_ENROLLED, "no label puts pod shop/web-1 into the mesh"},
		{"a ServiceAccount that was deleted", 6, func(a *attempt) {
			a.ca.cfg.Accounts.Ask = func(context.Context, identity.ServiceAccount) (Account, bool, error) { return Account{}, false, nil }
		}, codes.PermissionDenied, identityv1.Reason_ACCOUNT_GONE, "no ServiceAccount shop/web any more"},
		{"a ServiceAccount that nobody knows of", 6, func(a *attempt) {
			a.ca.cfg.Accounts.Ask = func(context.Context, identity.ServiceAccount) (Account, bool, error) {
				return Account{}, false, errors.New("connection refused")
			}
		}, codes.Unavailable, identityv1.Reason_API_UNAVAILABLE, "the API server does not say: connection refused"},
		{"a lifetime that is none", 7, func(a *attempt) { a.request.ValidityDuration = -1 },
			codes.InvalidArgument, identityv1.Reason_TTL_MALFORMED, "negative"},
		{"the same again and again", 8, func(a *attempt) { a.succeed(); a.succeed() },
			codes.ResourceExhausted, identityv1.Reason_IDENTITY_TOO_OFTEN, "node-1 asks for shop/web too often"},
		{"more than a node's share", 8, func(a *attempt) {
			for range a.ca.cfg.NodeBurst {
				a.ca.limits.take("node-1")
			}
		}, codes.ResourceExhausted, identityv1.Reason_TOO_MANY_REQUESTS, "node-1 asks too often"},
		{"a node in quarantine", 9, func(a *attempt) {
			a.deny(deny.Entry{Kind: deny.KindNode, Value: "node-1", Reason: "stolen"})
		}, codes.PermissionDenied, identityv1.Reason_DENIED, "denied: node node-1: stolen"},
		{"an identity that is denied", 9, func(a *attempt) { a.deny(deny.Entry{Kind: deny.KindID, Value: webID}) },
			codes.PermissionDenied, identityv1.Reason_DENIED, "denied: id " + webID},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			a := newAttempt(t)
			test.spoil(a)
			a.ca.log.take(t)
			response, err := a.ask()
			wantStatus(t, err, test.code, test.text)
			if got := reasonOf(err); got != test.reason || response != nil {
				t.Errorf("the reason is %v, want %v", got, test.reason)
			}
			if wait, told := retryInfo(err); told != (test.code == codes.ResourceExhausted) || told && wait <= 0 {
				t.Errorf("to come again after %v, %v", wait, told)
			}
			records := a.ca.log.take(t)
			if len(records) != 1 {
				t.Fatalf("%d records of one decision", len(records))
			}
			r := records[0]
			if r["msg"] != "certificate denied" || r["refusal"] != strings.ToLower(test.reason.String()) || r["reason"] != status.Convert(err).Message() {
				t.Errorf("the record is %v", r)
			}
			if proved := test.check > 2; proved != (r["node"] == "node-1" && r["node_uid"] == "node-uid" && r["pod_uid"] == "pod-uid" && r["token"] == "JTI=token-1") && proved {
				t.Errorf("the record does not say who asked: %v", r)
			}
		})
	}
}

// ask asks as the node does.
func (a *attempt) ask() (*identityv1.IstioCertificateResponse, error) {
	a.t.Helper()
	addr, stop := serve(a.t, a.ca)
	defer stop()
	token := mint(a.t, jose.ES256, esKey, "es", a.claims)
	return dial(a.t, addr, trusting(a.ca)).CreateCertificate(outgoing(a.t, token), a.request)
}

func (a *attempt) succeed() {
	a.t.Helper()
	if _, err := a.ask(); err != nil {
		a.t.Fatal(err)
	}
}

func retryInfo(err error) (wait time.Duration, told bool) {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// The record of a certificate says what one needs to find all that it was used for.
func TestTheRecordOfACertificate(t *testing.T) {
	a := newAttempt(t)
	a.runs(Running{Node: "node-1", ServiceAccount: web, UID: "web-1"}, Running{Node: "node-1", ServiceAccount: web, UID: "web-2"},
		Running{Node: "node-1", ServiceAccount: web, UID: "plain", Outside: "no label"}, Running{Node: "node-2", ServiceAccount: web, UID: "far"})
	a.ca.cfg.Accounts.Replace(map[identity.ServiceAccount]Account{web: {UID: "sa-1", TTL: "2h"}}, nil, "")
	response, err := a.ask()
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, response)
	records := a.ca.log.take(t)
	if len(records) != 1 {
		t.Fatalf("%d records", len(records))
	}
	pods, _ := records[0]["pods"].([]any)
	if len(pods) != 2 || pods[0] != "web-1" || pods[1] != "web-2" {
		t.Errorf("pods %v", pods)
	}
	for key, want := range map[string]any{
		"account_uid": "sa-1", "lifetime_by": "ServiceAccount shop/web",
		"identity": webID, "node": "node-1", "node_uid": "node-uid", "pod": "ztunnel-abc", "pod_uid": "pod-uid", "token": "JTI=token-1",
		"serial": leaf.SerialNumber.Text(16), "not_after": leaf.NotAfter.Format(time.RFC3339), "not_before": leaf.NotBefore.Format(time.RFC3339),
	} {
		if records[0][key] != want {
			t.Errorf("%s is %v, want %v", key, records[0][key], want)
		}
	}
	for _, key := range []string{"time", "key_sha256", "issuer", "took", "from"} {
		if records[0][key] == nil {
			t.Errorf("no %s", key)
		}
	}
}

// A deny set that was not read yet might hold this node.
func TestNobodyIsServedBeforeTheDenySetIsKnown(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Denied = deny.NewSet() })
	_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.Unavailable, "the deny set is not known yet")
	_, err = r.Check(withToken(t.Context(), goodToken(t)), &identityv1.CheckRequest{})
	wantStatus(t, err, codes.Unavailable, "the deny set is not known yet")
	if reasonOf(err) != identityv1.Reason_CA_NOT_READY {
		t.Errorf("the reason is %v", reasonOf(err))
	}
	r.cfg.Denied.Replace(0, []deny.Entry{{Kind: deny.KindNode, Value: "node-1"}})
	_, err = r.Check(withToken(t.Context(), goodToken(t)), &identityv1.CheckRequest{})
	wantStatus(t, err, codes.PermissionDenied, "denied: node node-1")
	r.cfg.Denied.Replace(0, []deny.Entry{{Kind: deny.KindNode, Value: "node-1", Until: time.Now().Add(-time.Second)}})
	if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
		t.Errorf("after the entry has ended: %v", err)
	}
}
