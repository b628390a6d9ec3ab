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
	wantPassed(t, cmd, 2)
}

// wantPassed runs go test -v, and wants so many tests to pass, and none to be skipped.
func wantPassed(t *testing.T, cmd *exec.Cmd, want int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if passed := strings.Count(string(out), "--- PASS"); passed != want {
		t.Errorf("%d tests passed, want %d:\n%s", passed, want, out)
	}
}
