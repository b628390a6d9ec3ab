// SPDX-License-Identifier: Apache-2.0

package vault_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/vault"
	"github.com/culvert-mesh/culvert/identity/vault/vaulttest"
)

var td = spiffeid.RequireTrustDomainFromString("cluster.local")

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func client(t *testing.T, o vault.Options) *vault.Vault {
	t.Helper()
	v, err := vault.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newCA(t *testing.T, up ca.Upstream, ttl time.Duration) *ca.CA {
	t.Helper()
	made, err := ca.New(ca.Options{TrustDomain: td, Upstream: up, IssuerTTL: ttl})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Vault has the root, and its key never comes here. A002-21, A004-1. A004-22: it signs the
// issuer and no leaf, so that its rate bounds no pod and the CA does without it meanwhile.
func TestACAHasItsIssuerFromVault(t *testing.T) {
	served := vaulttest.Serve(t)
	for name, o := range map[string]vault.Options{
		"a token":                    {TokenFile: file(t, vaulttest.Token+"\n")},
		"the Kubernetes auth method": {Role: vaulttest.Role, JWTFile: file(t, vaulttest.JWT)},
	} {
		t.Run(name, func(t *testing.T) {
			o.Address, o.CA = served.URL, served.CA
			store := &ca.Memory{}
			made := newCA(t, client(t, o), 0)
			if err := made.Load(t.Context(), store); err != nil {
				t.Fatal(err)
			}
			files, err := store.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if n := served.Logins(); n != 0 {
				t.Errorf("%d tokens of logins are left, want none, and the file's as it was", n)
			}
			if _, there := files[ca.RootKeyFile]; there || len(made.Roots()) != 1 || !strings.HasPrefix(made.Roots()[0].Subject.CommonName, "vault root") {
				t.Errorf("roots: %v", made.Roots())
			}
			served.Seal(true)
			if _, err := made.Certify(files.Roots()[0].PublicKey, spiffeid.RequireFromPath(td, "/ns/shop/sa/web"), time.Hour); err != nil {
				t.Errorf("while Vault is sealed: %v", err)
			}
			served.Seal(false)
			for _, d := range ca.Lint(files, ca.Options{TrustDomain: td}) {
				t.Errorf("%v", d)
			}
		})
	}
}

func TestWhatVaultSaysIsTold(t *testing.T) {
	served := vaulttest.Serve(t)
	for _, tc := range []struct {
		name string
		o    vault.Options
		want string
	}{
		{"another token", vault.Options{TokenFile: file(t, "hvs.secret")}, "403 Forbidden: 2 errors occurred: * permission denied * invalid token"},
		{"another role", vault.Options{Role: "nobody", JWTFile: file(t, vaulttest.JWT)}, "auth/kubernetes/login: 403"},
		{"no token", vault.Options{TokenFile: "/nonexistent/token"}, "/nonexistent/token"},
		{"an empty token", vault.Options{TokenFile: file(t, "\n")}, "want a token in one line"},
		{"another mount", vault.Options{TokenFile: file(t, vaulttest.Token), Mount: "other"}, "other/root/sign-intermediate: 404"},
	} {
		tc.o.Address, tc.o.CA = served.URL, served.CA
		err := newCA(t, client(t, tc.o), 0).Load(t.Context(), &ca.Memory{})
		if !errors.Is(err, ca.ErrUpstream) || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "hvs.") || strings.Contains(err.Error(), vaulttest.JWT) {
			t.Errorf("%s: %v, want %q", tc.name, err, tc.want)
		}
	}
	o := vault.Options{Address: served.URL, TokenFile: file(t, vaulttest.Token)}
	if err := newCA(t, client(t, o), 0).Load(t.Context(), &ca.Memory{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
}

// An issuer that Vault makes too short, or for another domain, is not stored.
func TestAnIssuerThatCannotBeUsedIsNotStored(t *testing.T) {
	served := vaulttest.Serve(t)
	served.MaxTTL(10 * time.Second)
	store := &ca.Memory{}
	o := vault.Options{Address: served.URL, CA: served.CA, TokenFile: file(t, vaulttest.Token)}
	if err := newCA(t, client(t, o), 0).Load(t.Context(), store); !errors.Is(err, ca.ErrUpstream) {
		t.Errorf("ten seconds: %v", err)
	}
	if files, _ := store.Read(t.Context()); files != nil {
		t.Errorf("stored: %v", files)
	}
}

func TestTheIssuerIsRenewedAndFollowsVaultsRoot(t *testing.T) {
	served := vaulttest.Serve(t)
	served.Backdate(time.Hour) // each issuer is past half its life
	up := client(t, vault.Options{Address: served.URL, CA: served.CA, TokenFile: file(t, vaulttest.Token)})
	made, store := newCA(t, up, 30*time.Minute), &ca.Memory{}
	keeper := ca.NewKeeper(ca.KeeperOptions{CA: made, Store: store})
	served.Seal(true)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keeper.Run(ctx) }()
	defer func() { stop(); <-done }()
	await(t, "it waits for Vault", func() bool { return strings.Contains(keeper.Trouble().Problem, "Vault is sealed") })
	served.Seal(false)
	await(t, "it is open", func() bool { return keeper.Waiting() == nil })
	first := made.Roots()[0]
	look := func() {
		if files, err := store.Read(ctx); err == nil && files != nil {
			store.Set(files)
		}
	}
	await(t, "the next issuer signs", func() bool { look(); return keeper.Events()[ca.IssuerRenewed] > 0 })
	if state := keeper.Renewal().State; state != ca.RenewalUpstream {
		t.Errorf("renewal: %v", state)
	}
	served.NewRoot(t)
	await(t, "the root of Vault is in the bundle", func() bool { look(); return len(made.Roots()) == 2 })
	if err := made.Issuer().CheckSignatureFrom(first); err != nil {
		t.Errorf("an issuer signs whose root nodes do not know yet: %v", err)
	}
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within two minutes: %s", what)
		}
	}
}

func TestAddressesThatWouldShowATokenAreRefused(t *testing.T) {
	for address, good := range map[string]bool{
		"https://vault.example:8200": true, "https://vault.example:8200/": true, "http://127.0.0.1:8200": true, "http://[::1]:8200": true,
		"http://vault.example:8200": false, "http://localhost.example": false, "vault:8200": false, "": false, "https://user:pass@vault": false,
		"https://vault/ui": false, "https://vault?a": false, "ftp://vault": false,
	} {
		if _, err := vault.Address(address); (err == nil) != good {
			t.Errorf("%q: %v", address, err)
		}
	}
	for mount, good := range map[string]bool{"pki": true, "mesh/pki": true, "": false, "/pki": false, "pki/": false, "../sys": false, "a?b": false} {
		if _, err := vault.Mount(mount); (err == nil) != good {
			t.Errorf("mount %q: %v", mount, err)
		}
	}
}

// A standby leads to who is active; the token must not go there in plaintext.
func TestATokenDoesNotLeaveTLS(t *testing.T) {
	plain := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("asked: %s", r.URL) }))
	defer plain.Close()
	standby := httptest.NewTLSServer(http.RedirectHandler(plain.URL, http.StatusTemporaryRedirect))
	defer standby.Close()
	served := vaulttest.Serve(t) // of the same certificate
	up := client(t, vault.Options{Address: standby.URL, CA: served.CA, TokenFile: file(t, vaulttest.Token)})
	if _, err := up.Sign(t.Context(), []byte("csr"), "issuer", td.ID().URL(), time.Hour); err == nil || !strings.Contains(err.Error(), "it leads to http://") {
		t.Errorf("a redirect to plaintext: %v", err)
	}
}
