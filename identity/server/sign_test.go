// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

func newDER(t testing.TB) []byte {
	t.Helper()
	return must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
}

func toSign(t testing.TB, id string) *identityv1.SigningRequest {
	t.Helper()
	return &identityv1.SigningRequest{Id: id, Csr: newDER(t), Ttl: durationpb.New(10 * time.Minute)}
}

// A001-6: 100 requests are one RPC, by the real server over TLS. The node is attested once.
func TestAHundredCertificatesTakeOneRequest(t *testing.T) {
	count := &counting{}
	r := newRig(t, func(c *Config) { count.of, c.Attestor = c.Attestor, count })
	addr, _ := serve(t, r)
	request := &identityv1.SignRequest{}
	for range 100 {
		request.Requests = append(request.Requests, toSign(t, webID))
	}
	response, err := dialSigner(t, r, addr).Sign(outgoing(t, goodToken(t)), request)
	if err != nil {
		t.Fatal(err)
	}
	if count.calls != 1 {
		t.Errorf("the node was attested %d times", count.calls)
	}
	roots := x509.NewCertPool()
	for _, der := range response.GetRoots() {
		roots.AddCert(must(x509.ParseCertificate(der)))
	}
	serials := map[string]bool{}
	for i, result := range response.GetResults() {
		if result.GetDenial() != nil {
			t.Fatalf("%d: %v", i, result.GetDenial())
		}
		leaf, issuer := must(x509.ParseCertificate(result.GetChain()[0])), must(x509.ParseCertificate(result.GetChain()[1]))
		between := x509.NewCertPool()
		between.AddCert(issuer)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Fatal(err)
		}
		csr := must(x509.ParseCertificateRequest(request.GetRequests()[i].GetCsr()))
		if leaf.URIs[0].String() != webID || !leaf.PublicKey.(*ecdsa.PublicKey).Equal(csr.PublicKey) {
			t.Fatalf("%d: %v for another key or name", i, leaf.URIs)
		}
		if life := time.Until(leaf.NotAfter); life > 10*time.Minute {
			t.Errorf("it lives for %v", life)
		}
		if result.GetRenewAfter() != nil {
			t.Error("a wish, though clocks are right")
		}
		serials[leaf.SerialNumber.String()] = true
	}
	if len(serials) != 100 {
		t.Errorf("%d certificates", len(serials))
	}
	if issued := strings.Count(logged(t, r), "certificate issued"); issued != 100 {
		t.Errorf("%d records of 100 decisions", issued)
	}
}

func logged(t *testing.T, r *rig) string { return string(must(json.Marshal(r.log.take(t)))) }

type counting struct {
	of    Attestor
	mu    sync.Mutex
	calls int
}

func (c *counting) Attest(ctx context.Context, token string) (Caller, error) {
	c.mu.Lock()
	c.calls++
	c.mu.Unlock()
	return c.of.Attest(ctx, token)
}

func TestEachRequestOfABatchIsDecidedByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, func(c *Config) { c.ClockSkew = time.Minute })
		request := func(change func(*identityv1.SigningRequest)) *identityv1.SigningRequest {
			one := toSign(t, webID)
			change(one)
			return one
		}
		broken := newDER(t)
		broken[len(broken)-1] ^= 1
		rows := []struct {
			name   string
			change func(*identityv1.SigningRequest)
			code   codes.Code
			reason identityv1.Reason
		}{
			{"good", func(*identityv1.SigningRequest) {}, codes.OK, 0},
			{"of no pod here", func(q *identityv1.SigningRequest) { q.Id = "spiffe://cluster.local/ns/shop/sa/other" }, codes.Unavailable, identityv1.Reason_NOT_PLACED},
			{"of another trust domain", func(q *identityv1.SigningRequest) { q.Id = "spiffe://other/ns/shop/sa/web" }, codes.PermissionDenied, identityv1.Reason_TRUST_DOMAIN_WRONG},
			{"no ID", func(q *identityv1.SigningRequest) { q.Id = "" }, codes.InvalidArgument, identityv1.Reason_ID_MALFORMED},
			{"a key that it does not hold", func(q *identityv1.SigningRequest) { q.Csr = broken }, codes.InvalidArgument, identityv1.Reason_KEY_NOT_PROVED},
			{"no CSR", func(q *identityv1.SigningRequest) { q.Csr = nil }, codes.InvalidArgument, identityv1.Reason_CSR_MALFORMED},
			{"for a negative time", func(q *identityv1.SigningRequest) { q.Ttl = durationpb.New(-1) }, codes.InvalidArgument, identityv1.Reason_TTL_MALFORMED},
			{"for no time", func(q *identityv1.SigningRequest) { q.Ttl = &durationpb.Duration{Seconds: 1, Nanos: -1} }, codes.InvalidArgument, identityv1.Reason_TTL_MALFORMED},
			{"good again", func(q *identityv1.SigningRequest) { q.Ttl = nil }, codes.OK, 0},
		}
		batch := &identityv1.SignRequest{}
		for _, row := range rows {
			batch.Requests = append(batch.Requests, request(row.change))
		}
		start := time.Now()
		response, err := r.Sign(withToken(t.Context(), goodToken(t)), batch)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != batchPatience {
			t.Errorf("a pod that nobody knows kept the others for %v", took)
		}
		for i, row := range rows {
			result := response.GetResults()[i]
			if code := codes.Code(result.GetDenial().GetCode()); code != row.code || result.GetDenial().GetRefusal().GetReason() != row.reason {
				t.Errorf("%s: %v", row.name, result.GetDenial())
			}
			if row.code == codes.OK {
				leaf := must(x509.ParseCertificate(result.GetChain()[0]))
				life, wish := time.Until(leaf.NotAfter), result.GetRenewAfter().AsDuration()
				if wish < life*36/100 || wish > life*50/100 {
					t.Errorf("%s: the CA wishes for a renewal after %v of %v", row.name, wish, life)
				}
			}
		}
		// Alone, the one of no pod is waited for, and refused for good.
		response, err = r.Sign(withToken(t.Context(), goodToken(t)), &identityv1.SignRequest{Requests: batch.GetRequests()[1:2]})
		if err != nil {
			t.Fatal(err)
		}
		if d := response.GetResults()[0].GetDenial(); codes.Code(d.GetCode()) != codes.PermissionDenied {
			t.Errorf("alone: %v", d)
		}
	})
}

func TestABatchIsRefusedAsAWholeForWhatConcernsAll(t *testing.T) {
	r := newRig(t, nil)
	full := &identityv1.SignRequest{}
	for range identityv1.MaxBatch + 1 {
		full.Requests = append(full.Requests, &identityv1.SigningRequest{})
	}
	good := &identityv1.SignRequest{Requests: []*identityv1.SigningRequest{toSign(t, webID)}}
	for _, tc := range []struct {
		token   string
		request *identityv1.SignRequest
		code    codes.Code
		text    string
	}{
		{"", good, codes.Unauthenticated, "authorization"},
		{"x", good, codes.Unauthenticated, "authorization"},
		{goodToken(t), full, codes.InvalidArgument, "129, want 1 to 128"},
		{goodToken(t), &identityv1.SignRequest{}, codes.InvalidArgument, "there are 0"},
	} {
		response, err := r.Sign(withToken(t.Context(), tc.token), tc.request)
		wantStatus(t, err, tc.code, tc.text)
		if response != nil {
			t.Errorf("answered %v", response)
		}
	}
}

// A batch spends the node's share as its requests would one by one.
func TestABatchIsNoWayRoundTheNodesShare(t *testing.T) {
	r := newRig(t, func(c *Config) { c.NodeRate, c.NodeBurst = 0.001, 5 })
	batch := &identityv1.SignRequest{}
	for range 8 {
		batch.Requests = append(batch.Requests, toSign(t, webID))
	}
	response, err := r.Sign(withToken(t.Context(), goodToken(t)), batch)
	if err != nil {
		t.Fatal(err)
	}
	signed := 0
	for _, result := range response.GetResults() {
		if len(result.GetChain()) > 0 {
			signed++
			continue
		}
		if d := result.GetDenial(); d.GetRefusal().GetReason() != identityv1.Reason_TOO_MANY_REQUESTS || d.GetRetryAfter().AsDuration() <= 0 {
			t.Errorf("refused %v", d)
		}
	}
	if signed != 5 {
		t.Errorf("%d certificates of a share of 5", signed)
	}
}

// A batch that is answered as a whole is a decision, too: it counts, and is written down.
func TestABatchOfAWrongLengthIsSpentAndRecorded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.NodeRate, c.NodeBurst = 0.001, 1 })
	ctx := withToken(t.Context(), goodToken(t))
	_, err := r.Sign(ctx, &identityv1.SignRequest{})
	wantStatus(t, err, codes.InvalidArgument, "want 1 to")
	if records := r.log.take(t); len(records) != 1 || records[0]["msg"] != "certificate denied" || records[0]["node"] != "node-1" {
		t.Errorf("log %v", records)
	}
	_, err = r.Sign(ctx, &identityv1.SignRequest{})
	wantReason(t, err, codes.ResourceExhausted, identityv1.Reason_TOO_MANY_REQUESTS)
}
