// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Who blocks tunnels of this node's pods is logged when that changes, and shown. Pods of
// other nodes and outside the mesh are others' concern.
func TestPoliciesThatBlockTunnelsAreSaidOnce(t *testing.T) {
	var log bytes.Buffer
	b := &blocking{policies: networkpolicy.NewSet(), registry: workload.NewRegistry(nil), node: "node-1", log: slog.New(slog.NewTextHandler(&log, nil))}
	pod := func(name, node string, meshed bool) workload.Workload {
		return workload.Workload{UID: name, Namespace: "shop", Name: name, Node: node, Meshed: meshed, Labels: workload.NewLabels(map[string]string{"app": name})}
	}
	b.registry.Replace(workload.Mesh{Workloads: workload.Pack(pod("db", "node-1", true), pod("plain", "node-1", false), pod("away", "node-2", true))})
	admitting := func(app string, port uint16) networkpolicy.Policy {
		return networkpolicy.Policy{Namespace: "shop", Name: app, Pods: networkpolicy.Selector{{Key: "app", Operator: networkpolicy.In, Values: []string{app}}},
			Ingress: networkpolicy.Side{Isolates: true, Rules: []networkpolicy.Rule{{Ports: []networkpolicy.Port{{First: port, Last: port}}}}}}
	}
	for _, step := range []struct {
		policies []networkpolicy.Policy
		names    int
		says     string // and nothing else
	}{
		{nil, 0, ""},
		{[]networkpolicy.Policy{admitting("plain", 80), admitting("away", 80)}, 0, ""},
		{[]networkpolicy.Policy{admitting("db", 80)}, 1, "what=shop/db"},
		{[]networkpolicy.Policy{admitting("db", 81)}, 1, ""},
		{[]networkpolicy.Policy{admitting("db", workload.HBONEPort)}, 0, "no NetworkPolicy blocks tunnels any more"},
	} {
		log.Reset()
		b.policies.Replace(step.policies, nil)
		b.find()
		if got := log.String(); len(b.all()) != step.names || (step.says == "") != (got == "") || !strings.Contains(got, step.says) {
			t.Errorf("%v: %v, the log: %s", step.policies, b.all(), got)
		}
	}
	b.policies.Replace([]networkpolicy.Policy{admitting("db", 80)}, map[string]workload.Namespace{"shop": {Labels: map[string]string{networkpolicy.ModeLabel: "enforce"}}})
	b.find()
	dump, err := json.Marshal(b.dump())
	for _, want := range []string{`"blocking":["shop/db"]`, `"modes":{"shop":"enforce"}`, `"Name":"db"`} {
		if err != nil || !strings.Contains(string(dump), want) {
			t.Errorf("the dump %s, %v, lacks %s", dump, err, want)
		}
	}
}
