// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

func TestTheMeshIsKeptOfOneNodeAlone(t *testing.T) {
	node := func(name, workloads string) string {
		return clitest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"config": {"NodeName": %q}, "policyObjects": {"RootNamespace": "istio-system"}, "networkPolicies": {}, "edges": [{"port": 1}], "workloads": %s}`, name, workloads)
		}))
	}
	down := clitest.Serve(t, http.NotFoundHandler())
	some := `[{"UID": "1", "Namespace": "shop", "Name": "web-1"}]`
	for range 5 { // answers come in any order
		nodes, err := Lean(t.Context(), Addresses{Ztunnel: []string{down, node("new", "[]"), node("first", some), node("second", some), node("third", some)}})
		if err != nil || len(nodes) != 5 || nodes[0].Problem == "" {
			t.Fatalf("%v: %+v", err, nodes)
		}
		for _, n := range nodes[1:] {
			if len(n.Dump.Edges) != 1 {
				t.Errorf("%s has %d edges", n.Name, len(n.Dump.Edges))
			}
			if holds := len(n.Dump.Workloads) > 0 && n.Dump.Policies.RootNamespace != "" && n.Dump.Network != nil; holds != (n.Name == "first") || !holds && len(n.Dump.Workloads) > 0 {
				t.Errorf("%s: holds the mesh: %v, %d workloads", n.Name, holds, len(n.Dump.Workloads))
			}
		}
	}
}

// Of two answers of one node, the one that holds the mesh is kept.
func TestTheMeshIsKeptOfANodeThatWasFoundBeforeItKnewIt(t *testing.T) {
	node := func(workloads string) string {
		return clitest.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"config": {"NodeName": "node1"}, "workloads": %s}`, workloads)
		}))
	}
	early, late := node("[]"), node(`[{"UID": "1", "Namespace": "shop", "Name": "web-1"}]`)
	for _, addresses := range [][]string{{early, late}, {late, early}} {
		nodes, err := Lean(t.Context(), Addresses{Ztunnel: addresses})
		if err != nil || len(nodes) != 1 || len(nodes[0].Dump.Workloads) != 1 {
			t.Fatalf("%v: %+v", err, nodes)
		}
		if want := fmt.Sprintf("node1 is found by %s, which counts, and once more by %s", late, early); nodes[0].Twice() != want {
			t.Errorf("%q, want %q", nodes[0].Twice(), want)
		}
	}
}
