// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"net/netip"
	"testing"
)

// As kube-proxy: a Service's loadBalancerSourceRanges speak of its load balancer's
// addresses alone, and of those of their own family.
func TestLoadBalancerSourceRangesKeepOthersFromTheLoadBalancersAddresses(t *testing.T) {
	mesh := shop()
	mesh.Nodes = []Node{{Name: "node-1", Addrs: []netip.Addr{addr("192.168.0.1")}}}
	s := &mesh.Services[0]
	s.Ports[0].NodePort = 30080
	s.LoadBalancerIPs = []netip.Addr{addr("203.0.113.5"), addr("2001:db8::5")}
	s.ExternalIPs = []netip.Addr{addr("198.51.100.5")}
	s.SourceRanges = []netip.Prefix{prefix("10.2.0.0/24"), prefix("10.3.0.0/24")}
	other := Service{Namespace: "shop", Name: "other", LoadBalancerIPs: s.LoadBalancerIPs[:1], Ports: []ServicePort{{Port: 90, Endpoints: s.Ports[0].Endpoints}}}
	mesh.Services = append(mesh.Services, other)
	r := registry(t, mesh)

	for _, row := range []struct {
		client, dst string
		in          bool
	}{
		{"10.2.0.1", "203.0.113.5:80", true},
		{"10.3.0.1", "203.0.113.5:80", true},
		{"10.2.1.1", "203.0.113.5:80", false},
		{"::ffff:10.2.1.1", "203.0.113.5:80", false},
		{"fd02::1", "[2001:db8::5]:80", true},   // the ranges are all of IPv4
		{"10.2.1.1", "203.0.113.5:90", true},    // another Service
		{"10.2.1.1", "10.96.0.5:80", true},      // the cluster IP
		{"10.2.1.1", "198.51.100.5:80", true},   // an external IP
		{"10.2.1.1", "192.168.0.1:30080", true}, // a node port
		{"10.2.1.1", "[fd00:96::5]:80", true},
	} {
		_, err := r.Resolve(addr(row.client), ap(row.dst))
		if row.in != (err == nil) || !row.in && !errors.Is(err, ErrSource) {
			t.Errorf("%s to %s: %v", row.client, row.dst, err)
		}
	}
}
