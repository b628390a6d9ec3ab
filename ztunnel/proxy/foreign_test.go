// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// To NetworkPolicies a workload of another trust domain is an address: it is no pod of any
// namespace, and nobody waits for the registry to learn of it.
func TestNetworkPoliciesSeeAnotherTrustDomainByItsAddress(t *testing.T) {
	registry := workload.NewRegistry(nil)
	registry.Replace(meshOf(1, 1))
	b := newBench(t, registry, "web")
	n := &network{mode: networkpolicy.Enforce, set: networkpolicy.NewSet()}
	b.NetworkPolicies = n.set
	self, _ := registry.ByUID("uid-web")
	at := netip.MustParseAddr("172.20.0.7")
	there := workload.Workload{ID: spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/db"), Addrs: []netip.Addr{at}, Meshed: true}
	anyPod, block := networkpolicy.Selector{}, networkpolicy.Block{CIDR: netip.MustParsePrefix("172.20.0.0/24")}
	for _, tc := range []struct {
		name  string
		peer  networkpolicy.Peer
		admit bool
	}{
		{"pods of all namespaces", networkpolicy.Peer{Namespaces: &anyPod}, false},
		{"pods of the namespace", networkpolicy.Peer{Pods: &anyPod}, false},
		{"its addresses", networkpolicy.Peer{Block: &block}, true},
	} {
		n.replace(egress(networkpolicy.Rule{Peers: []networkpolicy.Peer{tc.peer}}))
		c := b.begin(t.Context(), outbound, netip.AddrPortFrom(webAddr, 1))
		c.leaves(&self, &workload.Destination{Peer: &there, Target: netip.AddrPortFrom(at, 8080)})
		err := b.admitNetwork(c)
		if _, denied := errors.AsType[*policy.Denied](err); denied == tc.admit || (err == nil) != tc.admit {
			t.Errorf("%s: %v, want it admitted: %v", tc.name, err, tc.admit)
		}
	}
}
