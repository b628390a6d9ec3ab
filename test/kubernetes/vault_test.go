// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
)

// The product's own tests speak to Vault, without a Kubernetes: this module has what builds
// it, and gives them the program. A002-21, A004-1.
func TestVaultSignsIssuers(t *testing.T) {
	programs, err := binaries.Vault(t.Context(), ".", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-timeout=10m", "-run=^TestVaultItself", "./identity/vault")
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), "VAULT_PROGRAM="+filepath.Join(programs, "vault"))
	wantPassed(t, cmd, 4)
}
