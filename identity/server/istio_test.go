// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// csrOf asks for a certificate of a key, naming what Istio's clients name in a CSR.
func csrOf(key crypto.Signer) string {
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

// Which of Istio's clients the CA serves, as docs/identity.md says: each row is a request
// as that client makes it.
func TestWhichOfIstiosClientsTheCAServes(t *testing.T) {
	p256 := func() crypto.Signer { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) }
	rsaOf := func(bits int) func() crypto.Signer {
		return func() crypto.Signer { return must(rsa.GenerateKey(rand.Reader, bits)) }
	}
	ofNode := func(claims map[string]any) {}
	ofPod := func(claims map[string]any) { // a workload's own
		claims["sub"] = "system:serviceaccount:shop:web"
		k := claims["kubernetes.io"].(map[string]any)
		k["namespace"], k["serviceaccount"] = "shop", map[string]any{"name": "web", "uid": "web-uid"}
		k["pod"] = map[string]any{"name": "web-1", "uid": "web-1-uid"}
	}
	impersonated := map[string]any{identityv1.ImpersonatedIdentity: webID}
	signer := map[string]any{"CertSigner": ""}
	for name, test := range map[string]struct {
		token  func(map[string]any)
		meta   map[string]any
		key    func() crypto.Signer
		code   codes.Code
		reason identityv1.Reason
	}{
		"ztunnel":                    {ofNode, impersonated, p256, codes.OK, 0},
		"Kmesh with ECDSA":           {ofNode, impersonated, p256, codes.OK, 0},
		"Kmesh by default":           {ofNode, impersonated, rsaOf(2048), codes.InvalidArgument, identityv1.Reason_KEY_NOT_ALLOWED},
		"RSA of 4096 bits":           {ofNode, impersonated, rsaOf(4096), codes.InvalidArgument, identityv1.Reason_KEY_NOT_ALLOWED},
		"pilot-agent in a pod":       {ofPod, signer, p256, codes.PermissionDenied, identityv1.Reason_ACCOUNT_NOT_TRUSTED},
		"pilot-agent, impersonating": {ofPod, impersonated, p256, codes.PermissionDenied, identityv1.Reason_ACCOUNT_NOT_TRUSTED},
		"a node for nobody":          {ofNode, signer, p256, codes.InvalidArgument, identityv1.Reason_ID_MALFORMED},
		"a node for a signer":        {ofNode, map[string]any{identityv1.ImpersonatedIdentity: webID, "CertSigner": "x"}, p256, codes.InvalidArgument, identityv1.Reason_ID_MALFORMED},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, nil)
			claims := tokenClaims()
			test.token(claims)
			ctx := withToken(t.Context(), mint(t, "ES256", esKey, "es", claims))
			md, _ := metadata.FromIncomingContext(ctx)
			md.Set("clusterid", "Kubernetes") // which all of them send
			_, err := r.CreateCertificate(metadata.NewIncomingContext(ctx, md), &identityv1.IstioCertificateRequest{
				Csr: csrOf(test.key()), Metadata: must(structpb.NewStruct(test.meta)), ValidityDuration: 24 * 3600,
			})
			wantReason(t, err, test.code, test.reason)
		})
	}
}

// istio#59992: an identity was made a pattern, in which a dot is any character.
func TestAnIdentityIsNoPattern(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: identity.ServiceAccount{Namespace: "shop", Name: "webxv1"}, UID: "u"}}, nil)
	})
	for _, id := range []string{"spiffe://cluster.local/ns/shop/sa/web.v1", "spiffe://cluster.local/ns/shop/sa/web*", "spiffe://cluster.local/ns/shop/sa/.*"} {
		request := goodRequest(t)
		request.Metadata = must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: id}))
		ctx, cancel := context.WithCancel(withToken(t.Context(), goodToken(t)))
		cancel() // or it would wait for the source
		if _, err := r.CreateCertificate(ctx, request); err == nil {
			t.Errorf("%s was certified for a pod of webxv1", id)
		}
	}
}

// CVE-2022-39388: who called from the loopback with a header of a proxy was whom the
// header said.
func TestNeitherLoopbackNorAHeaderProvesWhoCalls(t *testing.T) {
	r, _ := joining(t)
	addr, _ := serve(t, r) // on the loopback
	client := dial(t, addr, trusting(r))
	for name, header := range map[string][]string{
		"nothing":                     nil,
		"x-forwarded-client-cert":     {"x-forwarded-client-cert", "By=spiffe://cluster.local/ns/istio-system/sa/istiod;Hash=00;URI=" + webID},
		"x-forwarded-for":             {"x-forwarded-for", "127.0.0.1"},
		"a token under another name":  {"x-token", goodToken(t)},
		"a token in another scheme":   {"authorization", "Basic " + goodToken(t)},
		"a certificate in a metadata": {"x-client-cert", "x"},
	} {
		_, err := client.CreateCertificate(metadata.AppendToOutgoingContext(t.Context(), header...), goodRequest(t))
		t.Run(name, func(t *testing.T) { wantStatus(t, err, codes.Unauthenticated, "authorization") })
	}
}

// CVE-2025-68121, and SPIRE #6715 (1.14.3): a session that is resumed is proved by what
// was valid when it began. The CA resumes none.
func TestTheCAResumesNoSession(t *testing.T) {
	r, _ := joining(t)
	addr, _ := serve(t, r)
	config := trusting(r)
	config.ClientSessionCache, config.NextProtos = tls.NewLRUClientSessionCache(8), []string{"h2"}
	for range 3 {
		conn, err := tls.Dial("tcp", addr, config)
		if err != nil {
			t.Fatal(err)
		}
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil { // a ticket would come before HTTP/2's settings
			t.Error(err)
		}
		if conn.ConnectionState().DidResume {
			t.Error("a session was resumed")
		}
		conn.Close()
	}
}

// CVE-2022-23635, GHSA-86vr-4wcv-mm9w: whatever bytes a stranger sends as any request,
// with whatever token and certificate, it gets a refusal. A panic fails the fuzzer:
// nothing here recovers.
func FuzzStrangers(f *testing.F) {
	add := func(m proto.Message, token string) { f.Add(must(proto.Marshal(m)), token, []byte{}) }
	add(&identityv1.IstioCertificateRequest{Csr: newCSR(f), Metadata: must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: webID}))}, "a.b.c")
	add(&identityv1.CheckRequest{}, "")
	add(&identityv1.SignRequest{Requests: []*identityv1.SigningRequest{{Id: webID, Csr: []byte("x")}}}, "culvert-join.0123456789abcdef.")
	add(&identityv1.BundleAck{Generation: 1}, "culvert-join.0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")
	r, store := joining(f)
	p := newProc()
	p.take(f, must(r.CreateCertificate(withToken(context.Background(), joinToken(f, store, batchID).Text()), p.request(batchID))))
	f.Add([]byte{}, "", p.chain[1].Raw)
	own := p.chain[0]
	f.Fuzz(func(t *testing.T, request []byte, token string, der []byte) {
		ctx := context.Background()
		if token != "" {
			ctx = withToken(ctx, token)
		}
		if cert, err := x509.ParseCertificate(der); err == nil && !cert.Equal(own) {
			ctx = shown(ctx, cert)
		}
		var create identityv1.IstioCertificateRequest
		if proto.Unmarshal(request, &create) == nil {
			if _, err := r.CreateCertificate(ctx, &create); err == nil {
				t.Fatal("a stranger has a certificate")
			}
		}
		var check identityv1.CheckRequest
		if proto.Unmarshal(request, &check) == nil {
			if _, err := r.Check(ctx, &check); err == nil {
				t.Fatal("a stranger is a node")
			}
		}
		var sign identityv1.SignRequest
		if proto.Unmarshal(request, &sign) == nil {
			if _, err := r.Sign(ctx, &sign); err == nil {
				t.Fatal("a stranger has a batch")
			}
		}
	})
}

// CVE-2026-41413: whoever asked named an address, and the control plane fetched keys
// there. The CA takes keys from its own file, whatever a token's header says.
func TestAKeyThatATokenPointsToIsNotFetched(t *testing.T) {
	asked := make(chan string, 8)
	keys := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		w.Write(jwks(t, goodKeys()...))
	}))
	defer keys.Close()
	r := newRig(t, nil)
	foreign := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	for _, header := range []string{"jku", "x5u", "iss"} {
		options := (&jose.SignerOptions{}).WithHeader("kid", "other").WithHeader(jose.HeaderKey(header), keys.URL+"/"+header)
		signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: foreign}, options))
		claims := tokenClaims()
		claims["iss"] = keys.URL
		token := must(jwt.Signed(signer).Claims(claims).Serialize())
		_, err := r.CreateCertificate(withToken(t.Context(), token), goodRequest(t))
		wantStatus(t, err, codes.Unauthenticated, "authorization")
	}
	select {
	case path := <-asked:
		t.Errorf("the CA asked for %s", path)
	default:
	}
}
