// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
)

const webID, dbID = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/db"

// answers is what ztunnel renew prints.
func answers(t *testing.T, all ...fleet.Renewed) func([]string) (string, string) {
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	return func([]string) (string, string) { return string(text), "" }
}

// What came is said for each identity and node, and what failed is no success.
func TestCertificatesAreRenewedOnTheNodesOfACluster(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	says(t, o.must(2, "certs", "renew", "shop/web"), "no ztunnel was found", "--namespace")
	for _, node := range []string{"1", "2", "3"} {
		k.Pod("culvert-system", "ztunnel-"+node, "ztunnel", "node"+node, true, nil, "-state-dir=/run/other")
	}
	var command []string
	came := fleet.Renewed{Identity: webID, Held: true, Serial: "1f2e", Until: clitest.Now}
	k.Exec("culvert-system/ztunnel-1", func(c []string) (string, string) {
		command = c
		return answers(t, came)(c)
	})
	absent := fleet.Renewed{Identity: webID, Error: "no pod of it is enrolled here"}
	k.Exec("culvert-system/ztunnel-2", answers(t, absent))
	k.Exec("culvert-system/ztunnel-3", answers(t, absent))
	text := o.must(0, "certs", "renew", "shop/web")
	says(t, text, "node1", webID, "1f2e", "2026-11-29T12:00:00Z")
	if strings.Contains(text, "node2") {
		t.Errorf("a node without it is shown:\n%s", text)
	}
	if want := []string{"/bin/ztunnel", "renew", "-state-dir=/run/other", "-identities=shop/web"}; !slices.Equal(command, want) {
		t.Errorf("%q, want %q", command, want)
	}
	o.must(0, "certs", "renew", "--all", "--node", "node1")
	if command[len(command)-1] != "-all" {
		t.Errorf("%q", command)
	}

	k.Exec("culvert-system/ztunnel-2", answers(t, fleet.Renewed{Identity: webID, Held: true, Error: "the CA is down"}))
	says(t, o.must(2, "certs", "renew", webID), "1f2e", "node2", "the CA is down")
	says(t, o.must(0, "certs", "renew", webID, "--node", "node1"), "1f2e")
	says(t, o.must(2, "certs", "renew", "shop/db", "--node", "node1"), "no node that answered has a pod of it")
	says(t, o.must(2, "certs", "renew", webID, "--node", "node1,node9"), "1f2e", "node9", "no ztunnel was found on it")
	k.Exec("culvert-system/ztunnel-3", func([]string) (string, string) { return "", "ztunnel renew: ask ztunnel: connection refused\n" })
	says(t, o.must(2, "certs", "renew", "--all"), "1f2e", "node3", "connection refused")
	k.Exec("culvert-system/ztunnel-3", func([]string) (string, string) { return "noise", "" })
	says(t, o.must(2, "certs", "renew", "--all", "-o", "json"), `"ok": false`, "its answer is not understood")
	says(t, o.must(2, "certs", "renew"), "name identities, or give --all")
	says(t, o.must(2, "certs", "renew", "--all", webID), "name identities, or give --all")
	says(t, o.must(2, "certs", "renew", "--all", "--ztunnel-socket", "s"), "--kubeconfig is for a mesh on Kubernetes")
}

func TestAMachineIsAskedAtItsSocket(t *testing.T) {
	run := func(args ...string) string {
		var out strings.Builder
		if code := Run(context.Background(), Process{Args: append([]string{"culvert"}, args...), Stdout: &out, Stderr: &out, Getenv: func(string) string { return "" }}); code != 2 {
			t.Errorf("exit code %d", code)
		}
		return out.String()
	}
	says(t, run("certs", "renew", "--all", "--ztunnel", "127.0.0.1:1"), "--ztunnel-socket is required without Kubernetes")
	says(t, run("certs", "renew", "--all", "--node", "a", "--ztunnel-socket", "s"), "--node is for Kubernetes")
	says(t, run("certs", "renew", "--all", "--ztunnel-socket", filepath.Join(t.TempDir(), "none")), "connect: no such file or directory")
}
