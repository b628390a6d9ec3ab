// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// nest runs an echo server in a netns behind a pod, to which the pod translates
// its own port 9090, as docker does in a pod.
func (s *story) nest(p *lab.Pod) {
	s.Helper()
	for _, program := range []string{"nft", "ip", "unshare", "nsenter"} {
		if _, err := exec.LookPath(program); err != nil {
			s.Skipf("needs %s, in docker's part: %v", program, err)
		}
	}
	_, err := p.Start("docker", "sh", "-ec", fmt.Sprintf(`
		unshare -n sleep 600 & pid=$!
		until [ "$(readlink /proc/$pid/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
		inside() { nsenter -n -t $pid "$@"; }
		ip link add docker0 type veth peer name eth0 netns $pid
		inside ip link set eth0 up
		ip link set docker0 up
		inside ip addr add 10.88.0.2/24 dev eth0
		inside ip addr add fd88::2/64 dev eth0 nodad
		ip addr add 10.88.0.1/24 dev docker0
		ip addr add fd88::1/64 dev docker0 nodad
		inside ip route add default via 10.88.0.1
		inside ip route add default via fd88::1
		echo 1 >/proc/sys/net/ipv4/ip_forward
		echo 1 >/proc/sys/net/ipv6/conf/all/forwarding
		nft add table inet docker
		nft 'add chain inet docker pre { type nat hook prerouting priority dstnat; }'
		nft 'add rule inet docker pre ip daddr %s tcp dport 9090 dnat ip to 10.88.0.2'
		nft 'add rule inet docker pre ip6 daddr %s tcp dport 9090 dnat ip6 to fd88::2'
		exec nsenter -n -t $pid %s serve -kind echo [::]:9090
	`, p.IP4, p.IP6, p.App()))
	s.must(err)
}

// A pod's policies are about the pod: what it forwards to a netns behind it is
// seen and said, and under STRICT no stranger gets there through the pod.
func TestStrictHoldsForWhatAPodForwards(t *testing.T) {
	s := tell(t, "mesh")
	docker := s.pod(s.two, "docker", nil)
	allowed := s.pod(s.two, "allowed", func(spec *lab.PodSpec) {
		spec.Annotations = map[string]string{"culvert.dev/may-forward": "true"}
	})
	for _, p := range []*lab.Pod{docker, allowed} {
		s.serve(p.Place, agent.Echo, 8080)
		s.nest(p)
		s.eventually("the nested server answers", func() bool {
			return s.Outside.Ping(s.ctx, "tcp4", p.At("tcp4", 9090), "ping") == nil &&
				s.Outside.Ping(s.ctx, "tcp6", p.At("tcp6", 9090), "ping") == nil
		})
		s.eventually("it is said", func() bool {
			dump, err := s.two.Dump(s.ctx)
			s.must(err)
			return slices.Equal(dump.Pods[p.UID].Forwards, []string{"docker0"})
		})
	}
	if n := s.gauge(s.two, "culvert_forwarding_pods"); n < 2 {
		t.Errorf("%v pods are counted as forwarding, want 2", n)
	}
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.eventually("the guard is up", func() bool {
		return s.Outside.Ping(s.ctx, "tcp4", docker.At("tcp4", 9090), "ping") != nil
	})
	client := s.pod(s.one, "client", nil)
	s.overBoth(func(s *story, network string) {
		// The kernel drops what it would forward: nobody answers.
		if err := s.Outside.Ping(s.ctx, network, docker.At(network, 9090), "ping"); err == nil {
			s.Errorf("a stranger reached what is behind a STRICT pod over %s", network)
		}
		s.refused(s.Outside.Place, network, docker, 8080)
		s.reached(client.Place, network, docker, 8080)
		s.reached(s.Outside.Place, network, allowed, 9090)
		s.refused(s.Outside.Place, network, allowed, 8080)
	})
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "PERMISSIVE"))
	s.eventually("PERMISSIVE opens it again", func() bool {
		return s.Outside.Ping(s.ctx, "tcp4", docker.At("tcp4", 9090), "ping") == nil
	})
}

// The sockets of a virtual machine are not the node's: nothing of it can be
// steered, and nobody may believe that it is.
func TestAPodInAVirtualMachineIsNotEnrolledAndSaysSo(t *testing.T) {
	s := tell(t, "mesh")
	vm := s.pod(s.two, "vm", func(spec *lab.PodSpec) { spec.RuntimeClass = "kata-qemu" })
	s.serve(vm.Place, agent.Echo, 8080)
	dump, err := s.two.Dump(s.ctx)
	s.must(err)
	if got := dump.Pods[vm.UID]; got.State != "outside" || !strings.Contains(got.Reason, `runtimeClassName "kata-qemu"`) {
		t.Errorf("the pod is %q, %q; want it outside, with its runtime as the reason", got.State, got.Reason)
	}
	if n := s.gauge(s.two, "culvert_unsteerable_pods"); n < 1 {
		t.Errorf("%v pods are counted as unsteerable", n)
	}
	client := s.pod(s.one, "client", nil)
	s.reached(client.Place, "tcp4", vm, 8080)
	s.record(s.one, "direction", "outbound", "dst.addr", vm.At("tcp4", 8080).String(), "path", "passthrough")
}
