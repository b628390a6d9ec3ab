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

// The product's own tests speak to SPIRE, without a Kubernetes: this module has what builds
// it, and gives them the programs. A004-2, A004-6, A004-10.
func TestSPIREGivesPodsTheirIdentities(t *testing.T) {
	needRoot(t)
	lastLane.join(t) // it has a mesh of its own, and SVIDs of 20 s
	programs, err := binaries.SPIRE(t.Context(), ".", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, of string }{
		{"TestSPIREItselfGivesPodsTheirIdentities", "./ztunnel/spire"},
		{"TestSPIREGivesThePodsOfTwoNodesTheirIdentities", "./test/e2e"},
	} {
		cmd := exec.Command("go", "test", "-count=1", "-v", "-timeout=10m", "-run=^"+test.name+"$", test.of)
		cmd.Dir = filepath.Join("..", "..")
		cmd.Env = append(os.Environ(), "SPIRE_PROGRAMS="+programs)
		wantPassed(t, cmd, 1)
	}
}
