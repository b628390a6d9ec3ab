// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/vault"
	"github.com/culvert-mesh/culvert/identity/vault/vaulttest"
)

// policy is the one of docs/identity.md, in HCL.
func policy(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/identity.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, _ := strings.Cut(string(text), "\n```hcl\n")
	block, _, found := strings.Cut(block, "```\n")
	if !found {
		t.Fatal("docs/identity.md has no block of HCL")
	}
	return block
}

// withRoot is Vault itself, with a PKI engine at pki that has a root.
func withRoot(t *testing.T) *vaulttest.Real {
	t.Helper()
	real := vaulttest.Start(t)
	mount(real, "pki", "vault root", "8760h")
	return real
}

func mount(real *vaulttest.Real, path, root, ttl string, more ...any) {
	real.Write("sys/mounts/"+path, "type", "pki", "config", map[string]any{"max_lease_ttl": "87600h"})
	real.Write(path+"/root/generate/internal", append([]any{"common_name", root, "key_type", "ec", "key_bits", 256, "ttl", ttl}, more...)...)
}

func load(t *testing.T, o vault.Options, ttl time.Duration) (*ca.CA, *ca.Memory, error) {
	t.Helper()
	made, store := newCA(t, client(t, o), ttl), &ca.Memory{}
	return made, store, made.Load(t.Context(), store)
}

// Vault itself has the root. It is sealed, killed and started meanwhile: the CA signs on, a
// new one says what it waits for, and has its issuer when Vault is unsealed. A002-21, A004-1.
func TestVaultItselfSignsIssuersAndIsSealedAndKilled(t *testing.T) {
	real := withRoot(t)
	o := vault.Options{Address: real.URL, CA: real.CA, TokenFile: file(t, real.Token("culvert", policy(t), time.Hour))}
	made, store, err := load(t, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	files, err := store.Read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	root := made.Roots()[0]
	if _, there := files[ca.RootKeyFile]; there || len(made.Roots()) != 1 || root.Subject.CommonName != "vault root" || made.Issuer().CheckSignatureFrom(root) != nil {
		t.Errorf("roots: %v", made.Roots())
	}
	for _, d := range ca.Lint(files, ca.Options{TrustDomain: td}) {
		t.Errorf("%v", d)
	}
	if left := time.Until(made.Issuer().NotAfter); left < 89*24*time.Hour {
		t.Errorf("the issuer lasts for %s", left)
	}

	for when, change := range map[string]func(){"it is sealed": real.Seal, "it was killed": real.Restart} {
		change()
		if _, err := made.Certify(root.PublicKey, spiffeid.RequireFromPath(td, "/ns/shop/sa/web"), time.Hour); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		if _, _, err := load(t, o, 0); !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), "503 Service Unavailable: Vault is sealed") {
			t.Errorf("%s: %v", when, err)
		}
		real.Unseal()
		if again, _, err := load(t, o, 0); err != nil || !again.Roots()[0].Equal(root) {
			t.Errorf("%s, and unsealed: %v", when, err)
		}
	}
	mount(real, "old", "is over soon", "2h")
	o.TokenFile, o.Mount = file(t, real.Token("old", strings.ReplaceAll(policy(t), `"pki/`, `"old/`), time.Hour)), "old"
	if made, _, err := load(t, o, 0); err != nil || made.Issuer().NotAfter.After(made.Roots()[0].NotAfter) {
		t.Errorf("under a root of two hours: %v", err)
	}
	real.Kill()
	if _, _, err := load(t, o, 0); !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("it is away: %v", err)
	}
}

// The issuer is renewed at half its life, by the token that the file has then; Vault's next
// root is in the bundle before an issuer under it signs, and the CA whose issuer is over has
// one under that root at its next start.
func TestVaultItselfRenewsTheIssuerAndItsRootIsFollowed(t *testing.T) {
	real := withRoot(t)
	token := file(t, real.Token("culvert", policy(t), time.Hour))
	o := vault.Options{Address: real.URL, CA: real.CA, TokenFile: token}
	store := &ca.Memory{}
	run := func() (*ca.CA, *ca.Keeper, func()) {
		made := newCA(t, client(t, o), 40*time.Second) // Vault backdates it by 30 s
		keeper := ca.NewKeeper(ca.KeeperOptions{CA: made, Store: store})
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- keeper.Run(ctx) }()
		await(t, "it is open", func() bool { return keeper.Waiting() == nil })
		return made, keeper, func() { stop(); <-done }
	}
	look := func() {
		if files, err := store.Read(t.Context()); err == nil && files != nil {
			store.Set(files)
		}
	}
	made, keeper, stop := run()
	first, issuer := made.Roots()[0], made.Issuer()
	await(t, "the next issuer signs", func() bool { look(); return keeper.Events()[ca.IssuerRenewed] > 0 && !made.Issuer().Equal(issuer) })
	if err := made.Issuer().CheckSignatureFrom(first); err != nil {
		t.Errorf("the next issuer: %v", err)
	}

	// Its token is over; the operator's agent writes another.
	real.Ask(nil, http.MethodPost, "auth/token/revoke", map[string]any{"token": secretOf(t, token)})
	await(t, "a token that is over", func() bool {
		look()
		return strings.Contains(keeper.Trouble().Problem, "pki/root/sign-intermediate: 403 Forbidden: 2 errors occurred: * permission denied * invalid token")
	})
	renewed := keeper.Events()[ca.IssuerRenewed]
	if err := os.WriteFile(token, []byte(real.Token("culvert", policy(t), time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	await(t, "another token", func() bool { look(); return keeper.Events()[ca.IssuerRenewed] > renewed })

	next := real.Write("pki/root/rotate/internal", "common_name", "vault's next root", "key_type", "ec", "key_bits", 256, "ttl", "8760h")
	real.Write("pki/root/replace", "default", next["issuer_id"])
	await(t, "Vault's next root is in the bundle", func() bool { look(); return len(made.Roots()) == 2 })
	if err := made.Issuer().CheckSignatureFrom(first); err != nil {
		t.Errorf("an issuer signs whose root nodes do not know yet: %v", err)
	}
	stop()
	over := made.Issuer().NotAfter
	await(t, "the issuer is over", func() bool { return time.Now().After(over) })
	made, _, stop = run()
	defer stop()
	if root := made.Roots()[len(made.Roots())-1]; root.Subject.CommonName != "vault's next root" || made.Issuer().CheckSignatureFrom(root) != nil {
		t.Errorf("after a start: %v under %v", made.Issuer().Subject, root.Subject)
	}
}

func secretOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

// Vault's own words say why it signs no issuer, and nothing is stored.
func TestVaultItselfSaysWhyItSignsNoIssuer(t *testing.T) {
	real := withRoot(t)
	good := file(t, real.Token("culvert", strings.ReplaceAll(policy(t), `"pki/`, `"+/`), time.Hour))
	short := real.Token("short", policy(t), time.Second)
	mount(real, "leaves", "may sign no authority", "8760h", "max_path_length", 0)
	real.Write("sys/mounts/empty", "type", "pki")
	await(t, "a token that expires", func() bool {
		_, _, err := load(t, vault.Options{Address: real.URL, CA: real.CA, TokenFile: file(t, short)}, 0)
		return err != nil && strings.Contains(err.Error(), "403 Forbidden: 2 errors occurred: * permission denied * invalid token")
	})
	for _, tc := range []struct {
		name string
		o    vault.Options
		want string
	}{
		{"a policy of something else", vault.Options{TokenFile: file(t, real.Token("other", `path "secret/*" { capabilities = ["read"] }`, time.Hour))}, "pki/root/sign-intermediate: 403 Forbidden: 1 error occurred: * permission denied"},
		{"another mount", vault.Options{TokenFile: good, Mount: "nowhere"}, "nowhere/root/sign-intermediate: 404 Not Found: no handler for route"},
		{"an engine without a root", vault.Options{TokenFile: good, Mount: "empty"}, "no default issuer currently configured"},
		{"a root that may sign no authority", vault.Options{TokenFile: good, Mount: "leaves"}, "400 Bad Request: signing certificate has a max path length of zero"},
	} {
		tc.o.Address, tc.o.CA = real.URL, real.CA
		_, store, err := load(t, tc.o, 0)
		if !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hvs.") {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
		if files, _ := store.Read(t.Context()); files != nil {
			t.Errorf("%s: stored: %v", tc.name, files)
		}
	}
}

// reviewed answers Vault's TokenReviews as an API server does that knows one ServiceAccount.
func reviewed(t *testing.T, name, uid string) (url, root string) {
	t.Helper()
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews" {
			t.Errorf("asked: %s: %v", r.URL, err)
		}
		review["status"] = map[string]any{"authenticated": true, "user": map[string]any{
			"username": "system:serviceaccount:culvert-system:" + name, "uid": uid, "groups": []string{"system:serviceaccounts"},
		}, "audiences": []string{"vault"}}
		w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(w).Encode(review)
	}))
	t.Cleanup(server.Close)
	return server.URL, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}

// jwt is a token of a ServiceAccount, as a TokenReview knows it.
func jwt(name, uid string) string {
	part := func(v any) string {
		text, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(text)
	}
	now := time.Now()
	return fmt.Sprintf("%s.%s.%s", part(map[string]any{"alg": "RS256", "typ": "JWT"}), part(map[string]any{
		"iss": "https://kubernetes.default.svc", "aud": []string{"vault"}, "exp": now.Add(time.Hour).Unix(), "nbf": now.Unix(), "iat": now.Unix(),
		"kubernetes.io": map[string]any{"namespace": "culvert-system", "serviceaccount": map[string]any{"name": name, "uid": uid}},
		"sub":           "system:serviceaccount:culvert-system:" + name,
	}), "c2lnbmF0dXJl")
}

// A ServiceAccount logs in to Vault's own Kubernetes auth method. Its token is revoked at
// once; a role that is another's refuses it, and Vault says which.
func TestVaultItselfLogsAServiceAccountIn(t *testing.T) {
	real := withRoot(t)
	host, root := reviewed(t, "culvert-identity", "uid-1")
	real.Write("sys/policies/acl/culvert", "policy", policy(t))
	real.Write("sys/auth/kubernetes", "type", "kubernetes")
	real.Write("auth/kubernetes/config", "kubernetes_host", host, "kubernetes_ca_cert", root, "disable_local_ca_jwt", true, "token_reviewer_jwt", jwt("vault", "uid-0"))
	for role, account := range map[string]string{"culvert": "culvert-identity", "others": "somebody-else"} {
		real.Write("auth/kubernetes/role/"+role, "bound_service_account_names", account, "bound_service_account_namespaces", "culvert-system",
			"audience", "vault", "token_policies", "culvert", "token_ttl", "10m")
	}
	tokens := func() int {
		var list struct{ Data struct{ Keys []string } }
		real.Ask(&list, "LIST", "auth/token/accessors", nil)
		return len(list.Data.Keys)
	}
	before := tokens()
	o := vault.Options{Address: real.URL, CA: real.CA, Role: "culvert", JWTFile: file(t, jwt("culvert-identity", "uid-1"))}
	made, _, err := load(t, o, 0)
	if err != nil {
		t.Fatal(err)
	}
	if made.Roots()[0].Subject.CommonName != "vault root" {
		t.Errorf("roots: %v", made.Roots())
	}
	if now := tokens(); now != before {
		t.Errorf("%d tokens are left of a login", now-before)
	}
	o.Role = "others"
	if _, _, err := load(t, o, 0); !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), "auth/kubernetes/login: 403 Forbidden: service account name not authorized") {
		t.Errorf("the role of others: %v", err)
	}
	o.Role = "nobody"
	if _, _, err := load(t, o, 0); !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), `invalid role name "nobody"`) {
		t.Errorf("no role: %v", err)
	}
}
