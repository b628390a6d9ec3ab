// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// offline runs a command on a directory of dumps of one node: before.json and after.json.
func offline(t *testing.T, command ...string) (code int, out, errs string) {
	dir := t.TempDir()
	node, _ := clitest.Pair()
	for name, at := range map[string]time.Time{"before.json": clitest.Now.Add(-time.Minute), "after.json": clitest.Now} {
		node.More["time"] = at
		text, err := json.Marshal(node.Dump())
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var text, said strings.Builder
	args := append(append([]string{"culvert"}, command...), "-f", dir)
	code = Run(t.Context(), Process{Args: args, Stdout: &text, Stderr: &said, Getenv: func(string) string { return "" }})
	return code, text.String(), strings.ReplaceAll(said.String(), dir+"/", "")
}

// A healthy node with dumps of before and after something is one node, and well.
func TestANodeWithTwoDumpsIsOneThatAnswers(t *testing.T) {
	const want = "culvert: warning: node1 is found by after.json, which counts, and once more by before.json\n"
	for _, command := range [][]string{{"status"}, {"edges"}, {"certs", "list"}, {"connections"}, {"why", "shop/web-1", "shop/web-1:80"}} {
		code, out, errs := offline(t, command...)
		if strings.Count(errs, want) != 1 || strings.Contains(out+errs, "answer") || command[0] != "why" && code != exitOK {
			t.Errorf("%v: exit code %d, %s%s", command, code, out, errs)
		}
		if command[0] == "status" && !strings.HasPrefix(out, "ok: 1 node, ") {
			t.Errorf("%s", out)
		}
	}
	if code, _, errs := offline(t, "status", "--watch", "--every", "500ms", "--for", "1200ms"); code != exitOK || strings.Count(errs, want) != 1 {
		t.Errorf("exit code %d, %s", code, errs)
	}
}

// So is a node that two addresses lead to.
func TestANodeWithTwoAddressesIsOneThatAnswers(t *testing.T) {
	node, _ := clitest.Pair()
	first, second := clitest.Serve(t, node), clitest.Serve(t, node)
	want := "culvert: warning: node1 is found by " + first + ", which counts, and once more by " + second + "\n"
	for _, command := range [][]string{{"status"}, {"check", "--category", "leaves"}, {"expiry"}} {
		_, out := asked(t.Context(), []string{first, second}, command...)
		if strings.Count(out, want) != 1 || strings.Contains(strings.ReplaceAll(out, want, ""), second) {
			t.Errorf("%v: %s", command, out)
		}
	}
}

// -A has all namespaces shown; -A=false asks for nothing.
func TestAllNamespacesMayBeRefused(t *testing.T) {
	for flags, want := range map[string]bool{"--ns=away": false, "--ns=away -A": true, "--ns=away -A=false": false, "--ns=away -A=true": true, "-A --ns=away": false} {
		if _, out, _ := offline(t, append([]string{"workloads"}, strings.Fields(flags)...)...); strings.Contains(out, "web") != want {
			t.Errorf("%s: %s", flags, out)
		}
	}
	if code, _, errs := offline(t, "workloads", "-A=some"); code != exitFail || !strings.Contains(errs, "invalid") {
		t.Errorf("exit code %d, %s", code, errs)
	}
}
