// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

func TestTheLogLevelIsChangedInThePodsOfZtunnel(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	// The second is of a version that has no scopes.
	told := map[string]string{"1": "level info\naccess info\ncerts debug\npods error"}
	for _, node := range []string{"1", "2"} {
		k.Pod("culvert-system", "ztunnel-"+node, "ztunnel", "node"+node, true, map[string]string{"15000": clitest.Serve(t, clitest.Ztunnel{Log: told[node]})}, "-state-dir=/run/other")
	}
	var command []string
	k.Exec("culvert-system/ztunnel-1", func(c []string) (string, string) {
		command = c
		return "level debug\naccess debug\n", ""
	})
	k.Exec("culvert-system/ztunnel-2", func([]string) (string, string) { return "", "ztunnel log: ask ztunnel: connection refused\n" })
	says(t, o.must(0, "log"), "node1   info,certs=debug,pods=error", "node2   info\n")
	says(t, o.must(0, "log", "-o", "json", "--node", "node1"), `"level": "info"`, `"access": "info"`, `"certs": "debug"`)
	says(t, o.must(0, "log", "--level", "debug", "--node", "node1"), "node1   debug")
	if want := []string{"/bin/ztunnel", "log", "-state-dir=/run/other", "-level=debug"}; !slices.Equal(command, want) {
		t.Errorf("%q, want %q", command, want)
	}
	o.must(0, "log", "--level", "warn,certs=debug", "--node", "node1")
	if command[len(command)-1] != "-level=warn,certs=debug" {
		t.Errorf("%q", command)
	}
	says(t, o.must(2, "log", "--reset"), "node1   debug", "node2: ztunnel log: ask ztunnel: connection refused")
	if command[len(command)-1] != "-reset" {
		t.Errorf("%q", command)
	}
	says(t, o.must(2, "log", "--reset", "--node", "node1,node9"), "node9: no ztunnel was found on it")
}
