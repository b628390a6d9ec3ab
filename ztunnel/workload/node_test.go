// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"testing"
)

// town is two nodes with a pod each, of which the second has host ports.
func town() Mesh {
	a, b := pod("a", "ua", "10.1.0.2", "fd00::2"), pod("b", "ub", "10.1.0.3", "fd00::3")
	b.Node = "node-2"
	b.HostPorts = []HostPort{
		{Port: 80, To: 8080},
		{Addr: addr("192.168.0.2"), Port: 81, To: 8081},
		{Addr: addr("0.0.0.0"), Port: 82, To: 8082},
		{Addr: addr("192.168.0.9"), Port: 83, To: 8083}, // of no node
	}
	endpoints := ready("10.1.0.2:8080", "10.1.0.3:8080", "[fd00::3]:8080")
	return Mesh{
		Workloads: Pack(a, b),
		Nodes: []Node{
			{Name: "node-1", Addrs: []netip.Addr{addr("192.168.0.1"), addr("2001:db8::1")}},
			{Name: "node-2", Addrs: []netip.Addr{addr("192.168.0.2"), addr("2001:db8::2")}},
		},
		Services: []Service{
			{Namespace: "shop", Name: "all", Ports: []ServicePort{{Port: 80, NodePort: 30080, Endpoints: endpoints}, {Port: 81, NodePort: 30081}}},
			{Namespace: "shop", Name: "local", Local: true, Ports: []ServicePort{{Port: 80, NodePort: 30090, Endpoints: endpoints}}},
		},
	}
}

func TestANodePortLeadsToTheServicesPods(t *testing.T) {
	r := registry(t, town())
	for dst, want := range map[string][]string{
		"192.168.0.1:30080":          {"10.1.0.2:8080", "10.1.0.3:8080"},
		"[::ffff:192.168.0.1]:30080": {"10.1.0.2:8080", "10.1.0.3:8080"},
		"192.168.0.2:30080":          {"10.1.0.2:8080", "10.1.0.3:8080"},
		"[2001:db8::1]:30080":        {"[fd00::3]:8080"},
		"192.168.0.1:30090":          {"10.1.0.2:8080"}, // externalTrafficPolicy: Local
		"192.168.0.2:30090":          {"10.1.0.3:8080"},
		"[2001:db8::2]:30090":        {"[fd00::3]:8080"},
	} {
		seen := map[netip.AddrPort]bool{}
		for range 100 {
			d := resolve(t, r, dst)
			if seen[d.Target] = true; !d.Peer.Meshed || d.Service == nil || d.Node {
				t.Fatalf("Resolve(%s) = %+v", dst, d)
			}
		}
		for _, w := range want {
			if !seen[ap(w)] {
				t.Errorf("Resolve(%s) never leads to %s", dst, w)
			}
		}
		if len(seen) != len(want) {
			t.Errorf("Resolve(%s) leads to %v", dst, seen)
		}
	}
	refused(t, r, "192.168.0.1:30081", ErrNoEndpoint, "no ready pod behind node port 192.168.0.1:30081 of service shop/all")
	refused(t, r, "[2001:db8::1]:30090", ErrNoEndpoint, "service shop/local")
}

func TestTheOwnNodesPortLeadsToAllPodsInSpiteOfExternalTrafficPolicy(t *testing.T) {
	for dst, want := range map[string]string{"192.168.0.1:30090": "ab", "192.168.0.2:30090": "b"} {
		if got := leads(t, "node-1", town(), dst); got != want {
			t.Errorf("from node-1, %s leads to %s, want %s", dst, got, want)
		}
	}
}

func TestAHostPortLeadsToThePodOfThatNode(t *testing.T) {
	r := registry(t, town())
	for dst, want := range map[string]string{
		"192.168.0.2:80": "10.1.0.3:8080", "[2001:db8::2]:80": "[fd00::3]:8080",
		"192.168.0.2:81": "10.1.0.3:8081", "192.168.0.2:82": "10.1.0.3:8082",
	} {
		if d := resolve(t, r, dst); d.Peer.UID != "ub" || d.Target != ap(want) || d.Service != nil {
			t.Errorf("Resolve(%s) = %v at %v", dst, d.Peer, d.Target)
		}
	}
	// Other nodes, other families, other addresses: the node itself.
	for _, dst := range []string{"192.168.0.1:80", "[2001:db8::2]:81", "[2001:db8::2]:82", "192.168.0.2:83", "192.168.0.2:22"} {
		if d := resolve(t, r, dst); d.Peer.UID != "" || d.Target != ap(dst) || !d.Node {
			t.Errorf("Resolve(%s) = %+v, want the node itself", dst, d)
		}
	}
	// A pod that ended has none any more, and its node's pods tell no lies of others.
	mesh := town()
	mesh.Workloads[1].Terminated = true
	if d := resolve(t, registry(t, mesh), "192.168.0.2:80"); !d.Node {
		t.Errorf("of a pod that ended: %+v", d)
	}
}

// Some load balancers have the nodes' own addresses, and several services share
// one. What none of them has is the node's.
func TestServicesShareALoadBalancersAddressByPort(t *testing.T) {
	mesh := town()
	for i := range mesh.Services {
		mesh.Services[i].LoadBalancerIPs = []netip.Addr{addr("192.168.0.1"), addr("203.0.113.1")}
		mesh.Services[i].Ports[0].Port = uint16(8000 + i)
	}
	r := registry(t, mesh)
	for dst, want := range map[string]string{
		"192.168.0.1:8000": "all", "192.168.0.1:8001": "local", "203.0.113.1:8000": "all", "203.0.113.1:8001": "local",
		"192.168.0.1:30080": "all",
	} {
		if d := resolve(t, r, dst); d.Service == nil || d.Service.Name != want {
			t.Errorf("Resolve(%s) = %+v, want service %s", dst, d, want)
		}
	}
	if d := resolve(t, r, "192.168.0.1:6443"); !d.Node {
		t.Errorf("the node's own port is %+v", d)
	}
	refused(t, r, "203.0.113.1:6443", ErrNoEndpoint, "no TCP port 6443")
}
