// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"context"
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// meshed are pods that are in the mesh, at 10.0.0.1 and so on.
func meshed(pods ...*workload.Workload) iter.Seq[workload.Workload] {
	var all []workload.Workload
	for i, p := range pods {
		w := *p
		w.Meshed, w.Addrs = true, []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, byte(i + 1)})}
		all = append(all, w)
	}
	return slices.Values(all)
}

// The pod network sees port 15008 alone: what a policy admits at another port does not
// arrive there unless some policy admits tunnels of the same peers.
func TestPoliciesThatBlockTunnelsAreNamed(t *testing.T) {
	web := admitting("shop", "web", "web", "db", 80)
	tunnels := admitting("shop", "tunnels", "web", "db", workload.HBONEPort)
	others := admitting("shop", "others", "job", "db", workload.HBONEPort)
	every := Policy{Namespace: "shop", Name: "every", Ingress: Side{Isolates: true, Rules: []Rule{{Ports: []Port{{First: 15000, Last: 16000}}}}}}
	open := Policy{Namespace: "shop", Name: "open", Ingress: Side{Isolates: true, Rules: []Rule{{}}}}
	closed := Policy{Namespace: "shop", Name: "closed", Ingress: Side{Isolates: true}}
	out := Policy{Namespace: "shop", Name: "out", Egress: Side{Isolates: true, Rules: []Rule{{Ports: []Port{{First: 53, Last: 53}}}}}}
	everybody := meshed(pod("shop", "web"), pod("shop", "job"), pod("shop", "db"))
	for _, row := range []struct {
		policies []Policy
		want     []string
	}{
		{nil, nil},
		{[]Policy{web}, []string{"shop/web"}},
		{[]Policy{web, tunnels}, nil},
		{[]Policy{web, others}, []string{"shop/web"}},
		{[]Policy{web, every}, nil},
		{[]Policy{open}, nil},
		{[]Policy{web, open}, nil},
		{[]Policy{closed}, nil}, // as it says
		{[]Policy{out, tunnels}, []string{"shop/out"}},
	} {
		s := NewSet()
		s.Replace(row.policies, nil)
		if got, err := s.Blocking(t.Context(), []*Concern{s.Concern(pod("shop", "db"))}, everybody); err != nil || !slices.Equal(got, row.want) {
			t.Errorf("%v: %v, %v block tunnels, want %v", row.policies, got, err, row.want)
		}
	}
}

// All pods are looked at for each of many peers. Nobody waits for that once ctx ends.
func TestTheSearchForBlockingPoliciesEndsWithItsContext(t *testing.T) {
	p := Policy{Namespace: "shop", Name: "large", Egress: Side{Isolates: true,
		Rules: []Rule{{Peers: manyBlocks(1000), Ports: []Port{{First: 443, Last: 443}}}}}}
	s := NewSet()
	s.Replace([]Policy{p}, nil)
	ctx, stop := context.WithCancel(t.Context())
	looks := 0
	pods := func(yield func(workload.Workload) bool) {
		if looks++; looks == 3 {
			stop()
		}
		yield(workload.Workload{Meshed: true})
	}
	names, err := s.Blocking(ctx, []*Concern{s.Concern(pod("shop", "db"))}, pods)
	if err == nil || len(names) > 0 || looks != 3 {
		t.Errorf("found %v, %v, and looked at all pods %d times, want 3", names, err, looks)
	}
}

// Pods of Jobs have labels of their own. What policies say of them stands in memory once,
// and who of thousands of policies blocks tunnels is found once, not at each snapshot.
func TestPodsOfWhichPoliciesSayTheSameShareAConcern(t *testing.T) {
	const n = 2000
	var policies []Policy
	for i := range n {
		p := admitting("shop", fmt.Sprintf("p%04d", i), fmt.Sprint("web", i), "db", 80)
		p.Pods = nil
		policies = append(policies, p)
	}
	s := NewSet()
	s.Replace(policies, nil)
	one, other := s.Concern(pod("shop", "job-1")), s.Concern(pod("shop", "job-2"))
	if one != other {
		t.Error("the same policies are held twice")
	}
	if all := one.lacking(); len(all) != n || testing.AllocsPerRun(100, func() { one.lacking() }) > 0 {
		t.Errorf("%d policies lack tunnels, or are looked for twice", len(all))
	}
	policies = slices.Clone(policies)
	policies[0].Pods = app("job-1")
	s.Replace(policies, nil)
	if one, other := s.Concern(pod("shop", "job-1")), s.Concern(pod("shop", "job-2")); one == other || len(other.policies) != n-1 {
		t.Error("policies that select one of two concern both")
	}
}

// What is not in the mesh is reached without tunnels, as DNS often is.
func TestAPolicyForPeersOutsideTheMeshBlocksNoTunnels(t *testing.T) {
	dns := Peer{Namespaces: &Selector{{Key: NameLabel, Operator: In, Values: []string{"kube-system"}}}, Pods: new(app("dns"))}
	team := Peer{Namespaces: &Selector{{Key: "team", Operator: In, Values: []string{"a"}}}}
	block := func(cidr string) Peer { return Peer{Block: &Block{CIDR: netip.MustParsePrefix(cidr)}} }
	outside, gone := pod("kube-system", "dns"), pod("kube-system", "dns")
	gone.Meshed, gone.Terminated = true, true
	for _, row := range []struct {
		what  string
		peers []Peer
		mesh  iter.Seq[workload.Workload]
		named bool
	}{
		{"pods outside the mesh", []Peer{dns}, slices.Values([]workload.Workload{*outside}), false},
		{"pods that have ended", []Peer{dns}, slices.Values([]workload.Workload{*gone}), false},
		{"pods of the mesh", []Peer{dns}, meshed(pod("kube-system", "dns")), true},
		{"pods of another namespace", []Peer{dns}, meshed(pod("shop", "dns")), false},
		{"one of two", []Peer{dns, team}, meshed(pod("a", "x")), true},
		{"a namespace by its labels", []Peer{team}, meshed(pod("b", "x")), false},
		{"addresses of nobody", []Peer{block("192.0.2.0/24")}, meshed(pod("a", "x")), false},
		{"addresses of pods", []Peer{block("10.0.0.0/24")}, meshed(pod("a", "x")), true},
		{"everybody", nil, meshed(), true},
	} {
		s := NewSet()
		s.Replace([]Policy{{Namespace: "shop", Name: "p", Egress: Side{Isolates: true, Rules: []Rule{{Peers: row.peers, Ports: []Port{{First: 53, Last: 53}}}}}}},
			map[string]workload.Namespace{"a": {Labels: map[string]string{"team": "a"}}, "b": {}})
		if got, err := s.Blocking(t.Context(), []*Concern{s.Concern(pod("shop", "db"))}, row.mesh); err != nil || (len(got) > 0) != row.named {
			t.Errorf("%s: %v, %v block tunnels", row.what, got, err)
		}
	}
}
