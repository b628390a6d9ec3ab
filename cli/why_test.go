// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// On Kubernetes what nodes do not know is tried by ztunnel probe in their pods.
func TestWhyHasNodesOfAClusterTry(t *testing.T) {
	one, two := clitest.Pair()
	k := &clitest.Kubernetes{}
	var asked []string
	app := `{"ok": true, "took": "1ms"}`
	for node, z := range map[string]clitest.Ztunnel{"node1": one, "node2": two} {
		pod := "ztunnel-" + node
		k.Pod("culvert-system", pod, "ztunnel", node, true, map[string]string{"15000": clitest.Serve(t, z)}, "-state-dir=/run/other")
		k.Exec("culvert-system/"+pod, func(command []string) (string, string) {
			asked = append(asked, node+" "+strings.Join(command[:3], " "))
			proof := `{"kernel": {"ok": true, "took": "1ms"}`
			if slices.ContainsFunc(command, func(arg string) bool { return arg == "-peer=10.0.1.8:15008" }) && slices.Contains(command, "-identity="+clitest.PairID("db")) {
				proof += `, "tunnel": {"ok": true, "took": "2ms"}`
			}
			if slices.Contains(command, "-app=10.0.1.8:5432") && slices.Contains(command, "-client=10.0.0.7") {
				proof += `, "app": ` + app
			}
			return proof + "}", ""
		})
	}
	kubeconfig := k.Kubeconfig(t, t.TempDir())
	why := func() (string, int) {
		var out bytes.Buffer
		code := Run(t.Context(), Process{
			Args: []string{"culvert", "why", "shop/web-1", "shop/db", "--kubeconfig", kubeconfig}, Stdout: &out, Stderr: &out,
			Getenv: func(string) string { return "" }, Now: func() time.Time { return clitest.Now },
		})
		return out.String(), code
	}
	text, code := why()
	for _, want := range []string{"carried: ", "the kernel says now that it steers shop/web-1", "node1 has proved a tunnel to 10.0.1.8:15008, in 2ms", "the app of shop/db-1 accepts connections on port 5432"} {
		if code != 0 || !strings.Contains(text, want) {
			t.Errorf("exit code %d, want %q:\n%s", code, want, text)
		}
	}
	for _, command := range asked {
		if !strings.HasSuffix(command, " /bin/ztunnel probe -state-dir=/run/other") {
			t.Errorf("asked %s", command)
		}
	}
	app = `{"ok": false, "word": "dial", "error": "connection refused", "refused": true}`
	if text, code := why(); code != 1 || !strings.Contains(text, "change: Pod shop/db-1: its app does not listen on port 5432") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
}
