// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// isolate puts a NetworkPolicy for the pods of an app in force.
func (s *story) isolate(app, name, spec string) {
	s.Helper()
	s.apply("NetworkPolicy", s.namespace, name, fmt.Sprintf(
		"{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: %s, namespace: %s}, spec: {podSelector: {matchLabels: {app: %s}}, %s}}\n",
		name, s.namespace, app, spec))
}

// A NetworkPolicy speaks of the ports of apps, and is kept for them: between pods of two
// nodes and of one. A namespace that does not enforce it is told what it would refuse.
func TestANetworkPolicyKeepsItsWordInsideTheMesh(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(server.Place, agent.Echo, 9090)
	clients := []*lab.Pod{s.pod(s.one, "far", nil), s.pod(s.two, "near", nil)}
	policy := "NetworkPolicy " + s.namespace + "/web"
	s.isolate("server", "web", "ingress: [{from: [{podSelector: {matchExpressions: [{key: app, operator: In, values: [far, near]}]}}], ports: [{port: 8080}]}]")

	s.overBoth(func(s *story, network string) { // warn
		for _, client := range clients {
			s.reached(client.Place, network, server, 9090)
			s.record(s.two, "direction", "inbound", "target", server.At(network, 9090).String(), "path", s.way(client, server),
				"src.workload", client.Name, "result", "ok", "network_policy_warn", policy+": no ingress rule admits it")
		}
	})
	if n := s.counted(s.two, "culvert_network_policy_refusals_total", "mode", "warn", "policy_namespace", s.namespace); n != 4 {
		s.Errorf("%v connections are counted that NetworkPolicies would refuse, want 4", n)
	}

	open, err := clients[0].Dial(s.ctx, "tcp4", server.At("tcp4", 9090))
	s.must(err)
	s.must(open.Ping(s.ctx, "before"))
	s.must(s.Label(s.namespace, "culvert.dev/network-policy", "enforce"))
	s.must(s.Settle(s.ctx))
	_, err = open.Receive(s.ctx, 1)
	wantReset(s.T, "what was open and is not admitted", err)
	s.record(s.two, "direction", "inbound", "result", "policy_changed", "policy", policy)

	s.overBoth(func(s *story, network string) {
		for _, client := range clients {
			s.reached(client.Place, network, server, 8080)
			s.refused(client.Place, network, server, 9090)
			s.record(s.two, "direction", "inbound", "target", server.At(network, 9090).String(), "path", s.way(client, server),
				"src.workload", client.Name, "result", "denied", "response_flags", "DENY", "policy", policy)
		}
	})

	s.isolate("far", "out", "policyTypes: [Egress], egress: [{ports: [{port: 9090}]}]")
	s.overBoth(func(s *story, network string) {
		s.refused(clients[0].Place, network, server, 8080)
		s.record(s.one, "direction", "outbound", "target", server.At(network, 8080).String(), "result", "denied", "policy", "NetworkPolicy "+s.namespace+"/out")
		s.reached(clients[1].Place, network, server, 8080)
	})
}
