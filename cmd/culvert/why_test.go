// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// layPair writes what two nodes dump: in well/ all is well, in denied/ a policy refuses,
// and web-1 remembers that. $WELL and $PAIR2 serve the first node and the second of well/.
// one.sock and two.sock are those of two nodes on which nothing is plaintext.
func layPair(t *testing.T, e *testscript.Env) error {
	one, two := clitest.Pair()
	if err := layDumps(filepath.Join(e.WorkDir, "well"), one, two); err != nil {
		return err
	}
	e.Setenv("WELL", clitest.Serve(t, one))
	e.Setenv("PAIR2", clitest.Serve(t, two))
	near, far := clitest.TrialPair()
	if err := clitest.ServeSocket(t, filepath.Join(e.WorkDir, "one.sock"), near); err != nil {
		return err
	}
	if err := clitest.ServeSocket(t, filepath.Join(e.WorkDir, "two.sock"), far); err != nil {
		return err
	}
	two.Policies = map[string]any{"RootNamespace": "istio-system", "AuthorizationPolicies": []any{map[string]any{
		"Namespace": "shop", "Name": "nobody", "Action": "DENY", "Selector": map[string]string{"app": "db"},
		"Rules": []any{[]any{[]any{map[string]any{"Ports": []int{6379}}}}, []any{[]any{map[string]any{"Ports": []int{5432}}}}},
	}}}
	one.Pods = maps.Clone(one.Pods)
	web := maps.Clone(one.Pods["uid-web-1"].(map[string]any))
	one.Pods["uid-web-1"] = web
	web["lastRefused"] = []any{map[string]any{
		"time": clitest.Now.Add(-3 * time.Minute), "direction": "outbound", "result": "denied", "error": "http status: 401 Unauthorized", "asked": "10.96.0.10:5432",
		"source":      map[string]any{"address": "10.0.0.7:4711", "namespace": "shop", "pod": "web-1", "identity": clitest.PairID("web")},
		"destination": map[string]any{"address": "10.0.1.8:15008", "namespace": "shop", "pod": "db-1"},
	}}
	return layDumps(filepath.Join(e.WorkDir, "denied"), one, two)
}

// layDumps writes what was taken two minutes ago.
func layDumps(dir string, nodes ...clitest.Ztunnel) error {
	files := map[string][]byte{}
	for _, n := range nodes {
		dump := n.Dump()
		dump["time"] = clitest.Now.Add(-2 * time.Minute)
		text, err := json.Marshal(dump)
		if err != nil {
			return err
		}
		files[n.Node+".json"] = text
	}
	return lay(dir, files)
}
