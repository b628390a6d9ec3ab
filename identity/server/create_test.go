// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// A002-6: the CA in the cluster.
func TestNodeGetsWhatRunsOnIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		request := goodRequest(t)
		response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
		if err != nil {
			t.Fatal(err)
		}
		chain := response.GetCertChain()
		if len(chain) != 3 {
			t.Fatalf("%d strings, want leaf, issuer and roots", len(chain))
		}
		pool, intermediates := x509.NewCertPool(), x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(chain[2])) || !intermediates.AppendCertsFromPEM([]byte(chain[1])) {
			t.Fatal("not PEM")
		}
		leaf := leafOf(t, response)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Error(err)
		}
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID {
			t.Errorf("the leaf names %v", leaf.URIs)
		}
		if got := time.Until(leaf.NotAfter); got != time.Hour {
			t.Errorf("valid for %v", got)
		}

		records := r.log.take(t)
		if len(records) != 1 {
			t.Fatalf("%d lines for one decision", len(records))
		}
		for key, want := range map[string]any{
			"msg": "certificate issued", "identity": webID, "node": "node-1", "caller": "culvert-system/ztunnel",
			"pod": "ztunnel-abc", "pod_uid": "pod-uid", "token": "token-1", "serial": leaf.SerialNumber.Text(16),
		} {
			if got := records[0][key]; got != want {
				t.Errorf("%s is %v in the log, want %v", key, got, want)
			}
		}
		if spki, _ := records[0]["key_sha256"].(string); len(spki) != 64 {
			t.Errorf("key_sha256 is %q", spki)
		}
		if text := fmt.Sprint(records); strings.Contains(text, "eyJ") {
			t.Error("the token is in the log")
		}
	})
}

// A002-8: leaves live as configured.
func TestLifetimeIsWhatIsAskedForUpToOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.TTL = 2 * time.Hour })
		for seconds, want := range map[int64]time.Duration{
			0: 2 * time.Hour, 1: ca.MinTTL, 60: time.Minute, 7200: 2 * time.Hour, 86400: 2 * time.Hour, math.MaxInt64: 2 * time.Hour,
		} {
			request := goodRequest(t)
			request.ValidityDuration = seconds
			response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
			if err != nil {
				t.Fatal(err)
			}
			if got := time.Until(leafOf(t, response).NotAfter); got != want {
				t.Errorf("asked for %d s: %v, want %v", seconds, got, want)
			}
		}
	})
}

// Each row is a good request but for one thing.
// CVE-2021-27098: a node got identities that it may not distribute.
func TestRequestsThatAreRefused(t *testing.T) {
	forged := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	forged[len(forged)-1] ^= 1
	ask := func(values map[string]any) func(*testing.T, *identityv1.IstioCertificateRequest) {
		return func(t *testing.T, r *identityv1.IstioCertificateRequest) {
			r.Metadata = must(structpb.NewStruct(values))
		}
	}
	askFor := func(id any) func(*testing.T, *identityv1.IstioCertificateRequest) {
		return ask(map[string]any{identityv1.ImpersonatedIdentity: id})
	}
	for _, test := range []struct {
		name  string
		spoil func(*testing.T, *identityv1.IstioCertificateRequest)
		code  codes.Code
		want  string
	}{
		{"no metadata", func(_ *testing.T, r *identityv1.IstioCertificateRequest) { r.Metadata = nil }, codes.InvalidArgument, "metadata.ImpersonatedIdentity"},
		{"no identity", ask(nil), codes.InvalidArgument, "metadata.ImpersonatedIdentity"},
		{"two identities", askFor([]any{webID, webID}), codes.InvalidArgument, "want one SPIFFE ID"},
		{"a number", askFor(7), codes.InvalidArgument, "want one SPIFFE ID"},
		{"something else asked for", ask(map[string]any{identityv1.ImpersonatedIdentity: webID, "CertSigner": "x"}), codes.InvalidArgument, `"CertSigner": not supported`},
		{"empty identity", askFor(""), codes.InvalidArgument, "identity: "},
		{"no SPIFFE ID", askFor("shop/web"), codes.InvalidArgument, "identity: "},
		{"no workload", askFor("spiffe://cluster.local/ns/shop/sa/web/x"), codes.InvalidArgument, "not of the form"},
		{"traversal", askFor("spiffe://cluster.local/ns/../sa/web"), codes.InvalidArgument, "identity: "},
		{"huge identity", askFor("spiffe://cluster.local/ns/shop/sa/" + strings.Repeat("w", maxID)), codes.InvalidArgument, "longer than"},
		{"foreign trust domain", askFor("spiffe://example.org/ns/shop/sa/web"), codes.PermissionDenied, "not of the trust domain cluster.local"},
		{"not on the node", askFor("spiffe://cluster.local/ns/shop/sa/db"), codes.PermissionDenied, "ServiceAccount shop/db that the mesh carries runs on node node-1"},
		{"the same name elsewhere", askFor("spiffe://cluster.local/ns/other/sa/web"), codes.PermissionDenied, "other/web"},
		{"the node agent itself", askFor("spiffe://cluster.local/ns/culvert-system/sa/ztunnel"), codes.PermissionDenied, "culvert-system/ztunnel"},
		{"negative lifetime", func(_ *testing.T, r *identityv1.IstioCertificateRequest) { r.ValidityDuration = -1 }, codes.InvalidArgument, "lifetime: -1s is negative"},
		{"no CSR", func(_ *testing.T, r *identityv1.IstioCertificateRequest) { r.Csr = "" }, codes.InvalidArgument, "csr"},
		{"no possession of the key", func(_ *testing.T, r *identityv1.IstioCertificateRequest) {
			r.Csr = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}))
		}, codes.InvalidArgument, "csr: signature of the CSR"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // the placement's wait is bubble time
				r := newRig(t, nil)
				request := goodRequest(t)
				test.spoil(t, request)
				response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
				wantStatus(t, err, test.code, test.want)
				if response != nil {
					t.Error("refused, with a response")
				}
				records := r.log.take(t)
				if len(records) != 1 || records[0]["msg"] != "certificate denied" || records[0]["node"] != "node-1" || records[0]["code"] != test.code.String() {
					t.Errorf("log %v", records)
				}
			})
		})
	}
}

func TestNothingButTheKeyOfTheCSRCounts(t *testing.T) {
	r := newRig(t, nil)
	other, _ := url.Parse("spiffe://cluster.local/ns/kube-system/sa/admin")
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "admin"}, DNSNames: []string{"kubernetes.default"}, URIs: []*url.URL{other},
	}, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	request := goodRequest(t)
	request.Csr = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
	response, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), request)
	if err != nil {
		t.Fatal(err)
	}
	leaf := leafOf(t, response)
	if len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID || len(leaf.DNSNames) != 0 || len(leaf.Subject.Names) != 0 {
		t.Errorf("the leaf names %v %v %v", leaf.URIs, leaf.DNSNames, leaf.Subject)
	}
}

func TestExactlyOneBearerTokenIsWanted(t *testing.T) {
	r := newRig(t, nil)
	good := goodToken(t)
	for name, ctx := range map[string]context.Context{
		"no metadata":  t.Context(),
		"no token":     metadata.NewIncomingContext(t.Context(), metadata.Pairs("clusterid", "Kubernetes")),
		"empty":        withToken(t.Context(), ""),
		"two":          metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Bearer "+good, "authorization", "Bearer "+good)),
		"other scheme": metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", "Basic "+good)),
		"bare":         metadata.NewIncomingContext(t.Context(), metadata.Pairs("authorization", good)),
		"huge":         withToken(t.Context(), strings.Repeat("x", maxToken+1)),
	} {
		_, err := r.CreateCertificate(ctx, goodRequest(t))
		if t.Run(name, func(t *testing.T) { wantStatus(t, err, codes.Unauthenticated, "authorization") }); err == nil {
			t.Error("accepted")
		}
	}
	if n := len(r.log.take(t)); n != 7 {
		t.Errorf("%d lines for 7 decisions", n)
	}
}

func TestOnlyNodeAccountsSpeakForNodes(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.NodeAccounts = []identity.ServiceAccount{{Namespace: "istio-system", Name: "ztunnel"}}
	})
	_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.PermissionDenied, "culvert-system/ztunnel does not speak for nodes")

	claims := tokenClaims()
	claims["sub"] = "system:serviceaccount:istio-system:ztunnel"
	claims["kubernetes.io"].(map[string]any)["namespace"] = "istio-system"
	if _, err := r.CreateCertificate(withToken(t.Context(), mint(t, "RS256", rsKey, "rs", claims)), goodRequest(t)); err != nil {
		t.Error(err)
	}
}

func TestRequestWaitsForTheSourceToCatchUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.Placement = NewPlacement() })
		_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.Unavailable, "what runs where")
		start := time.Now()
		time.AfterFunc(time.Second, func() { r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web}}, nil) })
		if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		r.cfg.Placement.Replace([]Running{{Node: "node-2", ServiceAccount: web}}, nil)
		start = time.Now()
		_, err = r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.PermissionDenied, "node-1")
		if waited := time.Since(start); waited != catchUp {
			t.Errorf("waited %v", waited)
		}
		ctx, cancel := context.WithTimeout(withToken(t.Context(), goodToken(t)), time.Second)
		defer cancel()
		if _, err := r.CreateCertificate(ctx, goodRequest(t)); err == nil {
			t.Error("issued")
		}
	})
}

func TestOneNodeCannotTakeTheCAFromTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.NodeRate, c.NodeBurst = 1, 3 })
		r.cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web}, {Node: "node-2", ServiceAccount: web}}, nil)
		ask := func(node string) error {
			claims := tokenClaims()
			claims["kubernetes.io"].(map[string]any)["node"] = map[string]any{"name": node, "uid": "uid of " + node}
			_, err := r.CreateCertificate(withToken(t.Context(), mint(t, "ES256", esKey, "es", claims)), goodRequest(t))
			return err
		}
		for range 3 {
			if err := ask("node-1"); err != nil {
				t.Fatal(err)
			}
		}
		wantStatus(t, ask("node-1"), codes.ResourceExhausted, "node-1 asks too often")
		if err := ask("node-2"); err != nil {
			t.Errorf("another node: %v", err)
		}
		time.Sleep(time.Second) // bubble time
		if err := ask("node-1"); err != nil {
			t.Errorf("a second later: %v", err)
		}
	})
}

func TestCAThatIsFullSaysSo(t *testing.T) {
	r := newRig(t, nil)
	for range maxInFlight {
		r.inFlight <- struct{}{}
	}
	_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
	wantStatus(t, err, codes.ResourceExhausted, "already")
	<-r.inFlight
	if _, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t)); err != nil {
		t.Error(err)
	}
}

func TestRequestGivesUpWaitingForACore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, nil)
		for range r.signing.free {
			if err := r.signing.enter(t.Context(), false); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(withToken(t.Context(), goodToken(t)), 10*time.Millisecond)
		defer cancel()
		_, err := r.CreateCertificate(ctx, goodRequest(t))
		wantStatus(t, err, codes.DeadlineExceeded, "")
	})
}

func TestExpiredCAIsSaidToBeExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) {
			c.CA = must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td, IssuerTTL: time.Hour}))
		})
		if err := r.ready(); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour) // bubble time
		_, err := r.CreateCertificate(withToken(t.Context(), goodToken(t)), goodRequest(t))
		wantStatus(t, err, codes.FailedPrecondition, "expired")
		if err := r.ready(); err == nil {
			t.Error("ready")
		}
	})
}

func TestACAThatCannotProveItselfIsNotReady(t *testing.T) {
	r := newRig(t, nil)
	r.certificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, errors.New("no certificate") }
	if err := r.ready(); err == nil || err.Error() != "no certificate" {
		t.Errorf("ready: %v", err)
	}
}

func FuzzCSR(f *testing.F) {
	f.Add(newCSR(f), webID, int64(3600))
	f.Add("", "", int64(-1))
	f.Add("-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n", "spiffe://cluster.local/ns/shop/sa/web/", int64(math.MaxInt64))
	r := newRig(f, func(c *Config) { c.Attestor = alwaysNode1{} })
	// Strangers to the placement would make each run wait.
	f.Fuzz(func(t *testing.T, csr, id string, seconds int64) {
		ctx, cancel := context.WithCancel(withToken(context.Background(), "x"))
		cancel()
		response, err := r.CreateCertificate(ctx, &identityv1.IstioCertificateRequest{
			Csr: csr, ValidityDuration: seconds,
			Metadata: &structpb.Struct{Fields: map[string]*structpb.Value{identityv1.ImpersonatedIdentity: structpb.NewStringValue(id)}},
		})
		if err != nil {
			return
		}
		if leaf := leafOf(t, response); id != webID || len(leaf.URIs) != 1 || leaf.URIs[0].String() != webID {
			t.Fatalf("signed %v for %q", leaf.URIs, id)
		}
	})
}

type alwaysNode1 struct{}

func (alwaysNode1) Attest(context.Context, string) (Caller, error) {
	return Caller{ServiceAccount: ztunnel, Node: "node-1"}, nil
}

// Whoever has no token could fill the disk with lines about that. Lines about a node
// that proved itself are all written: they are what an operator goes by.
func TestStrangersAreCountedAndFewLinesAreWrittenAboutThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.NodeRate, c.NodeBurst = 1000, 1000 })
		ask := func(token string, change func(*identityv1.IstioCertificateRequest)) {
			request := goodRequest(t)
			change(request)
			r.CreateCertificate(withToken(t.Context(), token), request)
		}
		as := func(*identityv1.IstioCertificateRequest) {}
		for range 500 {
			ask("junk", as)
			r.Check(withToken(t.Context(), "junk"), &identityv1.CheckRequest{})
		}
		if n := len(r.log.take(t)); n != 10 {
			t.Errorf("%d lines about 1000 strangers, want 10", n)
		}
		time.Sleep(5 * time.Second)
		ask("junk", as)
		if records := r.log.take(t); len(records) != 1 || records[0]["omitted"] != 990.0 || records[0]["refusal"] != "token_malformed" {
			t.Errorf("afterwards %v", records)
		}
		for range 30 {
			ask(goodToken(t), func(r *identityv1.IstioCertificateRequest) { r.ValidityDuration = -1 })
		}
		if records := r.log.take(t); len(records) != 30 || records[0]["refusal"] != "ttl_malformed" {
			t.Errorf("%d lines about a node, the first %v", len(records), records[0])
		}
		_, body := get(t, r.Handler(), "/metrics")
		for _, want := range []string{`culvert_identity_refusals_total{reason="token_malformed"} 1001`, `culvert_identity_refusals_total{reason="ttl_malformed"} 30`} {
			if !strings.Contains(body, want) {
				t.Errorf("no %s in the metrics", want)
			}
		}
	})
}
