// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
)

// The source's own tests do this, in the product's module: this one does not require
// it, and gives them the programs.
func TestTheSourceOfWorkloadsFollowsARealAPIServer(t *testing.T) {
	ownLane.join(t)
	dir, err := binaries.Build(t.Context(), ".", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "test", "-count=1", "-v", "-run=^TestAReal", "./ztunnel/source/kube")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "KUBEBUILDER_ASSETS="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passed := strings.Count(string(out), "--- PASS"); passed != 2 {
		t.Errorf("%d tests passed, want 2:\n%s", passed, out)
	}
}
