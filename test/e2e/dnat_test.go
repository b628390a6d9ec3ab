// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/netip"
	"os/exec"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// To the kernel a gRPC probe is a TCP connection to a declared port, and a
// lifecycle handler is one, too.
func TestGRPCProbesAndLifecycleHandlersPassUnderStrict(t *testing.T) {
	s := tell(t, "mesh")
	p := s.pod(s.one, "probed", func(spec *lab.PodSpec) {
		spec.Readiness = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 9000}}}
		spec.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{
			HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(9001)},
		}}
	})
	s.serve(p.Place, agent.Echo, 9000)
	s.serve(p.Place, agent.Echo, 9001)
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.overBoth(func(s *story, network string) {
		for _, port := range []uint16{9000, 9001} {
			s.reached(s.one.Kubelet, network, p, port)
			s.refused(s.one.Host, network, p, port)
			s.record(s.one, "direction", "inbound", "dst.addr", p.At(network, port).String(), "result", "denied")
		}
	})
}

// What the node's own packet filter leads to a pod, as kube-proxy does, is
// steered like what comes from elsewhere: even the kubelet's, which asked for
// another address, and even to a port of a probe.
func TestWhatTheNodeTranslatesToAPodIsNoProbe(t *testing.T) {
	for _, program := range []string{"nft", "ip"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("needs %s, in kube-proxy's part: %v", program, err)
		}
	}
	s := tellAlone(t, lab.Options{}, "mesh")
	p := s.probed()
	s.overBoth(func(s *story, network string) {
		// RFC 5737 and RFC 3849: nobody else has these.
		vip, family, table := netip.MustParseAddrPort("192.0.2.10:80"), "-4", "ip"
		if network == "tcp6" {
			vip, family, table = netip.MustParseAddrPort("[2001:db8::10]:80"), "-6", "ip6"
		}
		to := p.At(network, 8081)
		_, err := s.one.Host.Run(s.ctx, "sh", "-ec", fmt.Sprintf(`
			ip %s route add %s dev eth0 src %s
			nft add table %s proxy
			nft 'add chain %[4]s proxy output { type nat hook output priority -100; }'
			nft 'add rule %[4]s proxy output %[4]s daddr %[2]s tcp dport %[5]d dnat to %[6]s'
		`, family, vip.Addr(), s.one.Addr(network), table, vip.Port(), to))
		s.must(err)
		for _, from := range []*lab.Place{s.one.Host, s.one.Kubelet} {
			conn, err := from.Dial(s.ctx, network, vip)
			if err == nil {
				err = conn.Ping(s.ctx, "hello")
				s.must(conn.Close())
			}
			if err == nil {
				s.Errorf("%s was let through to %v by way of %v", from.Cgroup, to, vip)
			}
		}
		denied := func() (n int) {
			records, err := s.one.Records()
			s.must(err)
			for _, r := range records {
				if r.AddrPort("dst.addr") == to && r.AddrPort("src.addr").Addr() == s.one.Addr(network) && r.Get("result") == "denied" {
					n++
				}
			}
			return n
		}
		s.eventually("both were seen and denied", func() bool { return denied() == 2 })
		s.probe(p, network) // directly, it passes
		if n := denied(); n != 2 {
			s.Errorf("%d connections were denied, want 2", n)
		}
	})
}
