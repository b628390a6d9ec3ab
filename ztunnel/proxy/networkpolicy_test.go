// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// paths are the ways inside the mesh from pod web to pod db.
var paths = map[string]func(t *testing.T, changes ...plot) *story{
	"tunnel":    func(t *testing.T, changes ...plot) *story { return tell(t, echo(t, dbAddr), changes...) },
	"same node": func(t *testing.T, changes ...plot) *story { return tellNear(t, echo(t, dbAddr), changes...).story },
}

// network is the NetworkPolicies of a story's namespace, and its mode.
type network struct {
	set  *networkpolicy.Set
	mode networkpolicy.Mode
}

// withNetwork gives both pods the same NetworkPolicies.
func withNetwork(n *network) plot {
	n.set = networkpolicy.NewSet()
	return func(s *story) { s.web.NetworkPolicies, s.db.NetworkPolicies = n.set, n.set }
}

func (n *network) replace(policies ...networkpolicy.Policy) {
	n.set.Replace(policies, map[string]workload.Namespace{"shop": {Labels: map[string]string{networkpolicy.ModeLabel: string(n.mode)}}})
}

func side(rules ...networkpolicy.Rule) networkpolicy.Side {
	return networkpolicy.Side{Isolates: true, Rules: rules}
}

func atPort(port uint16) networkpolicy.Rule {
	return networkpolicy.Rule{Ports: []networkpolicy.Port{{First: port, Last: port}}}
}

func ofRole(role string) networkpolicy.Rule {
	pods := networkpolicy.Selector{{Key: "role", Operator: networkpolicy.In, Values: []string{role}}}
	return networkpolicy.Rule{Peers: []networkpolicy.Peer{{Pods: &pods}}}
}

func ingress(rules ...networkpolicy.Rule) networkpolicy.Policy {
	return networkpolicy.Policy{Namespace: "shop", Name: "in", Ingress: side(rules...)}
}

func egress(rules ...networkpolicy.Rule) networkpolicy.Policy {
	return networkpolicy.Policy{Namespace: "shop", Name: "out", Egress: side(rules...)}
}

// relabelled is the story's mesh with another label of web.
func relabelled(s *story, role string) workload.Mesh {
	mesh := meshOf(s.app.Port(), 1)
	web := mesh.Workloads[0].Workload()
	web.Labels = workload.NewLabels(map[string]string{"role": role})
	mesh.Workloads = append(workload.Pack(web), mesh.Workloads[1:]...)
	return mesh
}

// The app's port counts, on both paths and at both ends: what a policy admits goes on, and
// what it admits no more ends.
func TestNetworkPoliciesJudgeThePortsOfApps(t *testing.T) {
	for name, tell := range paths {
		for end, policy := range map[string]func(...networkpolicy.Rule) networkpolicy.Policy{"ingress": ingress, "egress": egress} {
			t.Run(name+", "+end, func(t *testing.T) {
				n := &network{mode: networkpolicy.Enforce}
				s := tell(t, withNetwork(n))
				asked, by := s.db, "NetworkPolicy shop/in"
				if end == "egress" {
					asked, by = s.web, "NetworkPolicy shop/out"
				}
				n.replace(policy(atPort(s.app.Port())))
				conn := greet(t, webAddr, s.to)

				n.replace(policy(atPort(s.app.Port()), atPort(1)))
				s.web.Recheck()
				s.db.Recheck()
				send(t, conn, "still")
				expect(t, conn, "still")

				n.replace(policy(atPort(workload.HBONEPort)))
				asked.Recheck()
				expectReset(t, conn)
				has(t, asked.record(PolicyChanged), map[string]any{"policy": by, "response_flags": "DENY"})

				expectRefused(t, webAddr, s.to)
				has(t, asked.record(Denied), map[string]any{"policy": by, "response_flags": "DENY"})
				if got := asked.metric("culvert_network_policy_refusals_total", `direction="`+end+`"`, `mode="enforce"`, `policy_namespace="shop"`); got != "1" {
					t.Errorf("%s refusals are counted, want 1", got)
				}
			})
		}
	}
}

// In mode warn everything passes, and the record and the metrics say what would not.
func TestNetworkPoliciesThatWarnLetPass(t *testing.T) {
	for name, tell := range paths {
		t.Run(name, func(t *testing.T) {
			n := &network{mode: networkpolicy.Warn}
			s := tell(t, withNetwork(n))
			n.replace(ingress(atPort(1)), egress(atPort(s.app.Port())))
			conn := greet(t, webAddr, s.to)
			s.web.Recheck()
			s.db.Recheck()
			for c := range s.db.live.all(inbound) {
				if c.inMesh.judged.Load() != nil {
					t.Error("the open connection holds policies that refuse nobody")
				}
			}
			conn.CloseWrite()
			expectEOF(t, conn)
			has(t, s.db.record(OK), map[string]any{"network_policy_warn": "NetworkPolicy shop/in: no ingress rule admits it", "policy": nil})
			has(t, s.web.record(OK), map[string]any{"network_policy_warn": nil})
			if got := s.db.metric("culvert_network_policy_refusals_total", `direction="ingress"`, `mode="warn"`); got != "1" {
				t.Errorf("%s are counted, want 1", got)
			}
		})
	}
}

// A label of the other pod admits it, as it is now.
func TestNetworkPoliciesFollowTheLabelsOfPeers(t *testing.T) {
	for name, tell := range paths {
		t.Run(name, func(t *testing.T) {
			n := &network{mode: networkpolicy.Enforce}
			s := tell(t, withNetwork(n))
			s.registry.Replace(relabelled(s, "client"))
			n.replace(ingress(ofRole("client")))
			conn := greet(t, webAddr, s.to)
			gone := meshOf(s.app.Port(), 1)
			gone.Workloads = gone.Workloads[1:]
			s.registry.Replace(gone) // its object went before its last bytes
			s.db.Recheck()
			send(t, conn, "still")
			expect(t, conn, "still")

			s.registry.Replace(relabelled(s, "stranger"))
			s.db.Recheck()
			expectReset(t, conn)
			has(t, s.db.record(PolicyChanged), map[string]any{"policy": "NetworkPolicy shop/in"})
			expectRefused(t, webAddr, s.to)
			s.db.record(Denied)
		})
	}
}

// A pod's first connection may be faster than what this node hears of the pod. It waits for
// that, and then is admitted or refused.
func TestAConnectionOfAPodThatIsNotKnownYetWaits(t *testing.T) {
	n := &network{mode: networkpolicy.Enforce}
	far := registryOf(meshOf(1, 1)) // what db's node knows
	s := tell(t, echo(t, dbAddr), withNetwork(n), func(s *story) { s.db.Registry = far })
	known := meshOf(s.app.Port(), 1)
	early := known
	early.Workloads = known.Workloads[1:]
	far.Replace(early)
	n.replace(ingress(ofRole("client")))
	s.registry.Replace(relabelled(s, "client"))

	conn := connect(t, webAddr, s.to)
	send(t, conn, "hello")
	eventually(t, "it is asked about", func() bool { return len(s.db.live.all(inbound)) == 1 })
	far.Replace(relabelled(s, "client"))
	expect(t, conn, "hello")
	conn.CloseWrite()
	expectEOF(t, conn)
	s.db.record(OK)

	far.Replace(early)
	expectRefused(t, webAddr, s.to) // and nobody hears of it
	s.db.record(Denied)
}

// Nobody answers at 15008: the record says which NetworkPolicies do not admit tunnels.
func TestATunnelThatNobodyAnswersNamesWhoBlocksIt(t *testing.T) {
	n := &network{mode: networkpolicy.Warn}
	s := tell(t, echo(t, dbAddr), withNetwork(n))
	n.replace(ingress(atPort(s.app.Port())), egress(atPort(s.app.Port())))
	s.leadTunnelsTo(netip.AddrPortFrom(dbAddr, 1))
	expectRefused(t, webAddr, s.to)
	text, _ := s.web.record(Dial)["error"].(string)
	for _, want := range []string{"port 15008", "NetworkPolicy shop/in", "NetworkPolicy shop/out"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not name %q", text, want)
		}
	}
}
