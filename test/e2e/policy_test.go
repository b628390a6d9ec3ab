// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestStrictShutsOutWhoHasNoIdentity(t *testing.T) {
	for _, scope := range []string{"mesh", "namespace"} {
		t.Run(scope, func(t *testing.T) {
			s := tell(t, "mesh")
			meshed, server := s.pod(s.one, "meshed", nil), s.pod(s.two, "server", nil)
			plain := s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
			s.serve(server.Place, agent.Echo, 8080)
			s.reached(plain.Place, "tcp4", server, 8080)

			where := s.namespace
			if scope == "mesh" {
				where = "istio-system"
			}
			s.apply("PeerAuthentication", where, "default", peerAuthentication(where, "STRICT"))
			s.overBoth(func(s *story, network string) {
				s.refused(plain.Place, network, server, 8080)
				s.refused(s.Outside.Place, network, server, 8080)
				s.reached(meshed.Place, network, server, 8080)
				s.record(s.two, "direction", "inbound", "dst.addr", server.At(network, 8080).String(), "path", "passthrough",
					"result", "denied", "response_flags", "DENY", "policy", "PeerAuthentication "+where+"/default")
			})
		})
	}
}

func TestAPortMayBeExemptFromStrict(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(server.Place, agent.Echo, 9090)
	s.apply("PeerAuthentication", s.namespace, "ports", fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: ports, namespace: %s}
spec:
  selector: {matchLabels: {app: server}}
  mtls: {mode: STRICT}
  portLevelMtls: {"9090": {mode: PERMISSIVE}}
`, s.namespace))
	s.overBoth(func(s *story, network string) {
		s.refused(s.Outside.Place, network, server, 8080)
		s.reached(s.Outside.Place, network, server, 9090)
	})
}

func TestAPolicyChangeEndsWhatItForbidsAndNothingElse(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	carried, err := client.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
	s.must(err)
	s.must(carried.Ping(s.ctx, "meshed"))
	plain, err := s.Outside.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
	s.must(err)
	s.must(plain.Ping(s.ctx, "plaintext"))

	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	if b, err := plain.Receive(s.ctx, 1); err == nil && len(b) > 0 {
		t.Errorf("the plaintext connection lives, and brought %q", b)
	}
	s.record(s.two, "dst.addr", server.At("tcp4", 8080).String(), "result", "policy_changed", "response_flags", "DENY")
	s.must(carried.Ping(s.ctx, "the meshed one lives on"))
}

// A node that believes in another ServiceAccount at an address than the one
// that runs there refuses, and never tries plaintext.
// A001-20, A002-2, A003-2: the peer must be exactly who is expected there.
func TestAPeerOfAnotherIdentityThanExpectedIsRefused(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(s.one.Believe(fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: server, namespace: %s, uid: %s, labels: {app: server}}
spec: {nodeName: node2, serviceAccountName: impostor, containers: [{name: main, image: none}]}
status: {phase: Running, podIP: %s, podIPs: [{ip: %[3]s}, {ip: "%[4]s"}]}
`, s.namespace, server.UID, server.IP4, server.IP6)))
	s.must(s.Settle(s.ctx))
	s.overBoth(func(s *story, network string) {
		wire, err := s.Wire.Capture(s.ctx)
		s.must(err)
		s.refused(client.Place, network, server, 8080)
		s.must(wire.Stop())
		if found, err := wire.Contains([]byte("ping")); found || err != nil {
			s.Errorf("payload on the wire: %v, %v", found, err)
		}
		s.record(s.one, "dst.hbone_addr", server.At(network, 8080).String(), "result", "tls", "response_flags", "TLS_FAILURE")
	})
}

func TestAForeignTrustDomainIsRefused(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	foreign, err := s.StartIdentity(s.ctx, lab.IdentityOptions{Name: "foreign", Host: 101, TrustDomain: "foreign.example"})
	s.must(err)
	s.must(s.two.Ztunnel.Stop(s.ctx))
	s.must(s.two.StartZtunnel(s.ctx, lab.ZtunnelOptions{TrustDomain: "foreign.example", Identity: foreign}))
	ours, theirs := s.pod(s.one, "ours", nil), s.pod(s.two, "theirs", nil)
	s.serve(ours.Place, agent.Echo, 8080)
	s.serve(theirs.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		for _, way := range []struct{ from, to *lab.Pod }{{ours, theirs}, {theirs, ours}} {
			wire, err := s.Wire.Capture(s.ctx)
			s.must(err)
			s.refused(way.from.Place, network, way.to, 8080)
			s.must(wire.Stop())
			if found, err := wire.Contains([]byte("ping")); found || err != nil {
				s.Errorf("payload on the wire: %v, %v", found, err)
			}
			s.record(way.from.Node, "direction", "outbound", "dst.hbone_addr", way.to.At(network, 8080).String(),
				"result", "tls", "response_flags", "TLS_FAILURE")
		}
	})
}
