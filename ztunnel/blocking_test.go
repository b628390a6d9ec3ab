// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		b.find(t.Context())
		if got := log.String(); len(b.all()) != step.names || (step.says == "") != (got == "") || !strings.Contains(got, step.says) {
			t.Errorf("%v: %v, the log: %s", step.policies, b.all(), got)
		}
	}
	b.policies.Replace([]networkpolicy.Policy{admitting("db", 80)}, map[string]workload.Namespace{"shop": {Labels: map[string]string{networkpolicy.ModeLabel: "enforce"}}})
	b.find(t.Context())
	dump, err := json.Marshal(b.dump())
	for _, want := range []string{`"blocking":["shop/db"]`, `"modes":{"shop":"enforce"}`, `"Name":"db"`} {
		if err != nil || !strings.Contains(string(dump), want) {
			t.Errorf("the dump %s, %v, lacks %s", dump, err, want)
		}
	}
}

// Snapshots do not wait for the search, and none is missed: it follows within a second, and
// takes a twentieth of a processor at most.
func TestPoliciesThatBlockTunnelsAreLookedForAfterEachSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &blocking{policies: networkpolicy.NewSet(), registry: workload.NewRegistry(nil), node: "node-1", log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = b.Run(ctx) })
		defer running.Wait()
		defer stop()
		db := workload.Workload{UID: "db", Namespace: "shop", Name: "db", Node: "node-1", Meshed: true}
		blocks := networkpolicy.Policy{Namespace: "shop", Name: "db", Ingress: networkpolicy.Side{Isolates: true,
			Rules: []networkpolicy.Rule{{Ports: []networkpolicy.Port{{First: 80, Last: 80}}}}}}
		for _, policies := range [][]networkpolicy.Policy{{blocks}, nil, {blocks}} {
			for range 3 { // the last one counts
				b.policies.Replace(policies, nil)
				b.registry.Replace(workload.Mesh{Workloads: workload.Pack(db)})
			}
			time.Sleep(findEvery + time.Millisecond)
			synctest.Wait()
			if got := len(b.all()); got != len(policies) {
				t.Fatalf("%d policies block tunnels, want %d", got, len(policies))
			}
		}
	})
}
