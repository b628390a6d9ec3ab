// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// authorize puts an AuthorizationPolicy for the pods of an app in force.
func (s *story) authorize(app, name, spec string) {
	s.Helper()
	s.apply("AuthorizationPolicy", s.namespace, name, fmt.Sprintf(
		"{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: %s, namespace: %s}, spec: {selector: {matchLabels: {app: %s}}, %s}}\n",
		name, s.namespace, app, spec))
}

// A verdict is the same in a tunnel, between two pods of one node and in plaintext, for
// IPv4 and IPv6: one row for each field, on every path.
func TestAPolicyMeansTheSameOnEveryPath(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(server.Place, agent.Echo, 9090)
	far, near := s.pod(s.one, "far", nil), s.pod(s.two, "near", nil)
	plain := s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	trusted := []*lab.Pod{far, near} // by tunnel, and beside one
	everybody := []*lab.Pod{far, near, plain}

	allow := func(rule string) string { return "action: ALLOW, rules: [" + rule + "]" }
	deny := func(rule string) string { return "action: DENY, rules: [" + rule + "]" }
	from := func(source string) string { return "{from: [{source: {" + source + "}}]}" }
	account := "cluster.local/ns/" + s.namespace + "/sa/"
	blocks := func(pods ...*lab.Pod) string {
		var all []string
		for _, p := range pods {
			all = append(all, fmt.Sprintf("%v, \"%v\"", p.IP4, p.IP6))
		}
		return "[" + strings.Join(all, ", ") + "]"
	}
	for _, row := range []struct {
		name, spec string
		port       uint16
		lets       []*lab.Pod
	}{
		{"ALLOW by principal", allow(from(`principals: ["` + account + `far"]`)), 8080, []*lab.Pod{far}},
		{"ALLOW whoever has an identity", allow(from(`principals: ["*"]`)), 8080, trusted},
		{"ALLOW by ServiceAccount", allow(from(`serviceAccounts: [near]`)), 8080, []*lab.Pod{near}},
		{"DENY by namespace", deny(from(`namespaces: [` + s.namespace + `]`)), 8080, []*lab.Pod{plain}},
		{"ALLOW a port", allow(`{to: [{operation: {ports: ["8080"]}}]}`), 8080, everybody},
		{"ALLOW another port", allow(`{to: [{operation: {ports: ["8080"]}}]}`), 9090, nil},
		{"ALLOW by address", allow(from(`ipBlocks: ` + blocks(far, plain))), 8080, []*lab.Pod{far, plain}},
		{"DENY by address", deny(from(`ipBlocks: ` + blocks(near, plain))), 8080, []*lab.Pod{far}},
		{"ALLOW by the destination's address", allow(`{when: [{key: destination.ip, values: ` + blocks(server) + `}]}`), 8080, everybody},
		{"ALLOW by another trust domain", allow(from(`trustDomains: [other.example]`)), 8080, nil},
		{"ALLOW all principals but one", allow(from(`notPrincipals: ["` + account + `near"]`)), 8080, []*lab.Pod{far, plain}},
		{"ALLOW by the end of a principal", allow(from(`principals: ["*/sa/far"]`)), 8080, []*lab.Pod{far}},
		{"DENY by the beginning of a principal", deny(from(`principals: ["` + account + `*"]`)), 8080, []*lab.Pod{plain}},
		{"ALLOW all ServiceAccounts but one", allow(from(`notServiceAccounts: [near]`)), 8080, []*lab.Pod{far, plain}},
		{"ALLOW all namespaces but one", allow(from(`notNamespaces: [` + s.namespace + `]`)), 8080, []*lab.Pod{plain}},
		{"DENY all addresses but one", deny(from(`notIpBlocks: ` + blocks(far))), 8080, []*lab.Pod{far}},
		{"DENY all trust domains but one", deny(from(`notTrustDomains: [cluster.local]`)), 8080, trusted},
		{"ALLOW all ports but one", allow(`{to: [{operation: {notPorts: ["9090"]}}]}`), 8080, everybody},
		{"ALLOW all ports but this", allow(`{to: [{operation: {notPorts: ["8080"]}}]}`), 8080, nil},
		{"ALLOW when source.ip", allow(`{when: [{key: source.ip, values: ` + blocks(near) + `}]}`), 8080, []*lab.Pod{near}},
		{"ALLOW when source.namespace", allow(`{when: [{key: source.namespace, values: [` + s.namespace + `]}]}`), 8080, trusted},
		{"DENY when not source.principal", deny(`{when: [{key: source.principal, notValues: ["` + account + `far"]}]}`), 8080, []*lab.Pod{far}},
		{"DENY when destination.port", deny(`{when: [{key: destination.port, values: ["9090"]}]}`), 9090, nil},
		{"DENY another destination.port", deny(`{when: [{key: destination.port, values: ["9090"]}]}`), 8080, everybody},
		{"ALLOW by the address that a header may name", allow(from(`remoteIpBlocks: ["0.0.0.0/0", "::/0"]`)), 8080, nil},
		{"ALLOW what nobody looks at", allow(`{to: [{operation: {methods: [GET]}}]}`), 8080, nil},
		{"ALLOW nothing", "action: ALLOW", 8080, nil},
	} {
		s.authorize("server", "rule", row.spec)
		s.overBoth(func(s *story, network string) {
			for _, client := range everybody {
				let := slices.Contains(row.lets, client)
				err := client.Ping(s.ctx, network, server.At(network, row.port), "ping")
				if (err == nil) != let {
					s.Errorf("%s: %s over %s: %v, want it let in: %v", row.name, client.Name, network, err, let)
				}
			}
		})
	}
	s.overBoth(func(s *story, network string) { // the last row's
		for _, path := range []string{s.way(far, server), s.way(near, server), "passthrough"} {
			s.record(s.two, "direction", "inbound", "target", server.At(network, 8080).String(), "path", path,
				"result", "denied", "response_flags", "DENY", "policy", "AuthorizationPolicy "+s.namespace+"/rule")
		}
	})
}

// A policy that lets in some ends the open connections of the others only.
func TestAPolicyThatAllowsSomeEndsTheConnectionsOfOthers(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		open := map[string]*agent.Conn{}
		for _, name := range []string{"kept", "cut"} {
			conn, err := s.pod(s.one, name+network, func(p *lab.PodSpec) { p.ServiceAccount = name }).Dial(s.ctx, network, server.At(network, 8080))
			s.must(err)
			s.must(conn.Ping(s.ctx, "before"))
			open[name] = conn
		}
		s.authorize("server", "some", "rules: [{from: [{source: {serviceAccounts: [kept]}}]}]")
		_, err := open["cut"].Receive(s.ctx, 1)
		wantReset(s.T, "the client's end", err)
		s.record(s.two, "direction", "inbound", "target", server.At(network, 8080).String(), "result", "policy_changed",
			"policy", "AuthorizationPolicy "+s.namespace+"/some")
		s.must(open["kept"].Ping(s.ctx, "after"))
		s.must(open["kept"].Close())
		s.must(s.Delete("AuthorizationPolicy", s.namespace, "some"))
		s.must(s.Settle(s.ctx))
	})
}

// The kubelet's probes pass where nobody may connect. Nothing else of the node does.
func TestProbesPassWhereAPolicyRefusesEverybody(t *testing.T) {
	s := tell(t, "mesh")
	p := s.probed()
	client := s.pod(s.one, "client", nil)
	s.reached(client.Place, "tcp4", p.Pod, 8081)
	s.authorize("probed", "nobody", "action: ALLOW")
	s.overBoth(func(s *story, network string) {
		s.probe(p, network)
		s.refused(client.Place, network, p.Pod, 8081)
		s.refused(s.one.Host, network, p.Pod, 8081)
		s.refused(s.Outside.Place, network, p.Pod, 8081)
	})
}
