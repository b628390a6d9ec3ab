// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// A node's port that leads to a pod of the mesh is carried in a tunnel to the
// pod, and asked for its policy. One that nobody knows goes out as it did.
func TestNodePortsAndHostPortsLeadIntoTunnels(t *testing.T) {
	const nodePort, localPort, hostPort, stranger = 30080, 30081, 8088, 30099
	s := tellAlone(t, lab.Options{}, "mesh")
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	for _, n := range s.Nodes {
		s.must(s.Apply("apiVersion: v1\nkind: Node\nmetadata: {name: " + n.Name + "}\nstatus: {addresses: [" +
			"{type: InternalIP, address: " + n.IP4.String() + "}, {type: InternalIP, address: \"" + n.IP6.String() + "\"}]}\n"))
	}
	client := s.pod(s.one, "client", nil)
	far := s.pod(s.two, "far", func(p *lab.PodSpec) {
		p.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: hostPort}}
	})
	s.serve(far.Place, agent.Echo, 8080)
	s.serve(s.two.Host, agent.Echo, stranger)
	for port, local := range map[int32]bool{nodePort: false, localPort: true} {
		_, err := s.Service(lab.ServiceSpec{
			Namespace: s.namespace, Name: map[bool]string{true: "local", false: "all"}[local], Selector: map[string]string{"app": "far"},
			Ports: []corev1.ServicePort{{Port: 80, NodePort: port, TargetPort: intstr.FromInt32(8080)}}, NodePorts: true, Local: local,
		})
		s.must(err)
	}
	s.must(s.Settle(s.ctx))
	wire, err := s.Wire.Capture(s.ctx)
	s.must(err)
	s.overBoth(func(s *story, network string) {
		to := far.At(network, 8080).String()
		for _, at := range []struct {
			node *lab.Node
			port uint16
		}{{s.one, nodePort}, {s.two, nodePort}, {s.one, localPort}, {s.two, localPort}, {s.two, hostPort}} {
			dst := netip.AddrPortFrom(at.node.Addr(network), at.port)
			if err := client.Ping(s.ctx, network, dst, secret); err != nil {
				s.Errorf("to port %d of %s: %v", at.port, at.node.Name, err)
			}
			s.record(s.one, "direction", "outbound", "dst.hbone_addr", to, "dst.workload", "far", "path", "tunnel", "result", "ok")
		}
		if err := far.Ping(s.ctx, network, netip.AddrPortFrom(s.one.Addr(network), localPort), secret); err == nil {
			s.Error("another node without a pod of the service let a connection through")
		}
		s.must(client.Ping(s.ctx, network, netip.AddrPortFrom(s.two.Addr(network), stranger), "in plaintext"))
	})
	s.must(wire.Stop())
	s.nothingPlain(wire, client, far)
	if got := s.counted(s.one, "culvert_plaintext_connections_total", "direction", "outbound", "reason", "node_port"); got != 2 {
		t.Errorf("%v plaintext connections to a node's port, want 2", got)
	}

	s.apply("AuthorizationPolicy", s.namespace, "lock",
		"apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: lock, namespace: "+s.namespace+"}\nspec: {}\n")
	s.overBoth(func(s *story, network string) {
		for _, port := range []uint16{nodePort, hostPort} {
			if err := client.Ping(s.ctx, network, netip.AddrPortFrom(s.two.Addr(network), port), "hello"); err == nil {
				s.Errorf("port %d of %s is a way around the policy", port, s.two.Name)
			}
		}
		s.record(s.two, "direction", "inbound", "target", far.At(network, 8080).String(), "result", "denied",
			"policy", "AuthorizationPolicy "+s.namespace+"/lock")
	})
}
