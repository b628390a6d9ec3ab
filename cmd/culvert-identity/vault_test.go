// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/vault/vaulttest"
	"github.com/culvert-mesh/culvert/test/env"
)

// The program starts while Vault is sealed, and signs by an issuer that Vault signs.
func TestNodesAreServedByAnIssuerOfVault(t *testing.T) {
	dir := t.TempDir()
	authority, objects, jwks, jwt := filepath.Join(dir, "ca"), filepath.Join(dir, "objects"), filepath.Join(dir, "jwks.json"), filepath.Join(dir, "jwt")
	for _, path := range []string{authority, objects} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write(t, filepath.Join(objects, "shop.yaml"), shop)
	write(t, jwt, vaulttest.JWT)
	token := nodeToken(t, jwks, nil)
	addr, metrics := env.Address(t), env.Address(t)
	up := vaulttest.Serve(t)
	up.Seal(true)
	serve(t, dir, "-dir", authority, "-workloads", objects, "-jwks", jwks, "-listen", addr, "-metrics-address", metrics,
		"-vault", up.URL, "-vault-ca", up.CA, "-vault-role", vaulttest.Role, "-vault-jwt-file", jwt)
	eventually(t, "it says that Vault is sealed", func() bool {
		return strings.Contains(fetched(metrics, "/readyz"), "Vault is sealed")
	})
	up.Seal(false)
	eventually(t, "it is ready", func() bool { return fetched(metrics, "/readyz") == "ok\n" })
	n := node{t: t, token: token, client: dial(t, addr, filepath.Join(authority, ca.RootFile))}
	if err := n.ask(webID); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(authority, ca.RootKeyFile)); err == nil {
		t.Error("the CA has the key of a root")
	}
	if text := fetched(metrics, "/metrics"); !strings.Contains(text, `culvert_identity_issuer_renewal_timestamp_seconds{state="upstream"}`) {
		t.Error("the metrics do not say that Vault renews the issuer")
	}
}
