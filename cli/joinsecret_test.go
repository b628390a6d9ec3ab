// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/identity/join"
	"github.com/culvert-mesh/culvert/identity/join/jointest"
)

func TestTheSecretThatAnOperatorWritesIsAStoreOfJoinTokens(t *testing.T) {
	jointest.Conformance(t, func(t *testing.T) func() join.Store {
		k := &clitest.Kubernetes{}
		config := k.Kubeconfig(t, t.TempDir())
		var apis []*kubeapi.API // each asks 50 times a second at most
		n := 0
		return func() join.Store {
			if len(apis) < 16 {
				api, err := kubeapi.Open(config, "")
				if err != nil {
					t.Fatal(err)
				}
				apis = append(apis, api)
			}
			n++
			return join.In(&joinSecret{apis[n%len(apis)], "ns", "culvert-join"})
		}
	})
}

// A token is in the Secret that the CA reads, by its hash alone.
func TestAJoinTokenIsMadeInTheSecretOfACluster(t *testing.T) {
	k := &clitest.Kubernetes{}
	o := operator{t, k.Kubeconfig(t, t.TempDir())}
	create := []string{"join", "token", "create", "--id", jointest.Batch.String()}
	says(t, o.must(0, create...), "is identity.join.enabled set? Taking culvert-system/culvert-join")
	k.Pod("culvert-system", "ca-1", "culvert-identity", "node1", true, nil, "-join-secret=culvert-system/tokens")
	code, token, stderr := o.run(create...)
	if code != 0 || !strings.HasPrefix(token, join.Prefix) || strings.Contains(stderr, "enabled") {
		t.Fatalf("%d: %s", code, stderr)
	}
	id := token[len(join.Prefix):][:16]
	says(t, o.must(0, "join", "list"), id, jointest.Batch.String(), "waiting")
	o.must(0, "join", "revoke", id)
	says(t, o.must(2, "join", "revoke", id), "in Secret culvert-system/tokens: there is no such join token")
	if text := o.must(0, "join", "list"); strings.Contains(text, id) {
		t.Error(text)
	}
}
