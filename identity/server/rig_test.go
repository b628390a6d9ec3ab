// SPDX-License-Identifier: Apache-2.0

package server

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

func TestMain(m *testing.M) { os.Exit(env.CheckLeaks(m)) }

const webID = "spiffe://cluster.local/ns/shop/sa/web"

var (
	td      = spiffeid.RequireTrustDomainFromString("cluster.local")
	web     = identity.ServiceAccount{Namespace: "shop", Name: "web"}
	ztunnel = identity.ServiceAccount{Namespace: "culvert-system", Name: "ztunnel"}

	esKey = must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	rsKey = must(rsa.GenerateKey(rand.Reader, 2048))
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// jwks is a file's text.
func jwks(t testing.TB, keys ...jose.JSONWebKey) []byte {
	t.Helper()
	return must(json.Marshal(jose.JSONWebKeySet{Keys: keys}))
}

func goodKeys() []jose.JSONWebKey {
	return []jose.JSONWebKey{
		{Key: &esKey.PublicKey, KeyID: "es", Use: "sig", Algorithm: "ES256"},
		{Key: &rsKey.PublicKey, KeyID: "rs", Use: "sig", Algorithm: "RS256"},
	}
}

// tokenClaims are those of a good token, for a test to spoil.
func tokenClaims() map[string]any {
	now := time.Now().Unix()
	return map[string]any{
		"iss": KubernetesIssuer, "sub": "system:serviceaccount:culvert-system:ztunnel", "jti": "token-1",
		"aud": []string{Audience}, "iat": now, "nbf": now, "exp": now + 600,
		"kubernetes.io": map[string]any{
			"namespace":      "culvert-system",
			"node":           map[string]any{"name": "node-1", "uid": "node-uid"},
			"pod":            map[string]any{"name": "ztunnel-abc", "uid": "pod-uid"},
			"serviceaccount": map[string]any{"name": "ztunnel", "uid": "sa-uid"},
		},
	}
}

func mint(t testing.TB, alg jose.SignatureAlgorithm, key any, kid string, claims any) string {
	t.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT")
	if kid != "" {
		options = options.WithHeader("kid", kid)
	}
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, options))
	return must(jwt.Signed(signer).Claims(claims).Serialize())
}

func goodToken(t testing.TB) string { return mint(t, jose.ES256, esKey, "es", tokenClaims()) }

// lines is a log that a test reads back.
type lines struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// take returns the records since the last call.
func (l *lines) take(t testing.TB) []map[string]any {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	var records []map[string]any
	for decoder := json.NewDecoder(&l.buf); decoder.More(); {
		var record map[string]any
		if err := decoder.Decode(&record); err != nil {
			t.Fatal(err)
		}
		records = append(records, record)
	}
	return records
}

// rig is a Server that knows that shop/web runs on node-1.
type rig struct {
	*Server
	log  *lines
	jwks string // file
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{log: &lines{}, jwks: filepath.Join(t.TempDir(), "jwks.json")}
	if err := os.WriteFile(r.jwks, jwks(t, goodKeys()...), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		CA:        must(ca.Open(t.TempDir(), ca.Options{TrustDomain: td})),
		Attestor:  &JWKS{File: r.jwks},
		Placement: NewPlacement(),
		DNSNames:  []string{"culvert-identity.culvert-system.svc"},
		IDBurst:   10_000, // stories ask for one identity more often than a node would
		Log:       slog.New(slog.NewJSONHandler(r.log, nil)),
	}
	cfg.Placement.Replace([]Running{{Node: "node-1", ServiceAccount: web}}, nil)
	if change != nil {
		change(&cfg)
	}
	r.Server = must(New(cfg))
	return r
}

func withToken(ctx context.Context, token string) context.Context {
	return metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
}

func newCSR(t testing.TB) string {
	t.Helper()
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))))
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}

func goodRequest(t testing.TB) *identityv1.IstioCertificateRequest {
	t.Helper()
	return &identityv1.IstioCertificateRequest{
		Csr:      newCSR(t),
		Metadata: must(structpb.NewStruct(map[string]any{identityv1.ImpersonatedIdentity: webID})),
	}
}

func leafOf(t testing.TB, response *identityv1.IstioCertificateResponse) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode([]byte(response.GetCertChain()[0]))
	return must(x509.ParseCertificate(block.Bytes))
}

func wantStatus(t testing.TB, err error, code codes.Code, text string) {
	t.Helper()
	if got := status.Code(err); got != code {
		t.Errorf("%v: %v, want %v", got, err, code)
	}
	if err != nil && !bytes.Contains([]byte(err.Error()), []byte(text)) {
		t.Errorf("%v does not say %q", err, text)
	}
}
