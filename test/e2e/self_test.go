// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestAPodReachesItselfThroughItsService(t *testing.T) {
	s := tell(t, "mesh")
	p := s.pod(s.one, "self", nil)
	s.serve(p.Place, agent.Echo, 8080)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	service, err := s.Service(lab.ServiceSpec{
		Namespace: s.namespace, Name: "self", Selector: map[string]string{"app": "self"},
		Ports: []corev1.ServicePort{lab.ServicePort("echo", 80, "8080"), lab.ServicePort("tunnel", 81, "15008")},
	})
	s.must(err)
	s.Cleanup(func() { s.Delete("Service", s.namespace, "self") })
	s.must(s.Settle(s.ctx))
	s.overBoth(func(s *story, network string) {
		vip := service.IP4
		if network == "tcp6" {
			vip = service.IP6
		}
		s.must(p.Ping(s.ctx, network, netip.AddrPortFrom(vip, 80), "to myself"))
		s.must(p.Ping(s.ctx, network, p.At(network, 8080), "to myself, directly"))
		s.record(s.one, "direction", "outbound", "dst.addr", p.At(network, 8080).String(), "path", "local", "result", "ok",
			"src.identity", p.SPIFFEID("cluster.local"), "dst.identity", p.SPIFFEID("cluster.local"))
		if err := p.Ping(s.ctx, network, netip.AddrPortFrom(vip, 81), "to ztunnel"); err == nil {
			s.Errorf("a Service led to ztunnel's own port")
		}
		s.record(s.one, "direction", "outbound", "dst.addr", p.At(network, 15008).String(), "result", "self_call")
	})
}
