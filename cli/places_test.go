// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

func TestTheSecretOfTheCAIsTheOneThatItsReplicasRead(t *testing.T) {
	k := &clitest.Kubernetes{}
	api, err := kubeapi.Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	cluster := &fleet.Cluster{API: api, Namespace: "ns"}
	is := func(flag, want string) {
		t.Helper()
		if got := (&sources{namespace: "ns", caSecret: flag}).secret(t.Context(), cluster); got != want {
			t.Errorf("--ca-secret %q: %s, want %s", flag, got, want)
		}
	}
	is("", "culvert-ca")
	k.Pod("ns", "ca-1", "culvert-identity", "node1", true, nil, "-kubeconfig=in-cluster", "-secret=ns/culvert-own-ca")
	is("", "culvert-own-ca")
	is("mine", "mine")
}
