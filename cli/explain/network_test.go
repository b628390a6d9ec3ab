// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var pay = workload.Workload{
	UID: "u2", Namespace: "bank", Name: "pay-1", Meshed: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")},
	ID: spiffeid.RequireFromString("spiffe://prod/ns/bank/sa/pay"), Labels: workload.NewLabels(map[string]string{"app": "pay"}),
}

func (d die) side() networkpolicy.Side {
	s := networkpolicy.Side{Isolates: !d.one(3)}
	for i := range d.IntN(3) {
		r := networkpolicy.Rule{Index: i, Ports: some(d, 2, networkpolicy.Port{First: 80, Last: 80}, networkpolicy.Port{Name: "web"})}
		app := networkpolicy.Selector{{Key: "app", Operator: networkpolicy.In, Values: some(d, 1, "db", "pay")}}
		team := networkpolicy.Selector{{Key: "team", Operator: networkpolicy.Exists}}
		block := networkpolicy.Block{CIDR: netip.MustParsePrefix(some(d, 1, "10.0.0.0/24", "10.0.1.0/24")[0])}
		r.Peers = some(d, 2, networkpolicy.Peer{Pods: &app}, networkpolicy.Peer{Pods: &app, Namespaces: &team}, networkpolicy.Peer{Namespaces: &team}, networkpolicy.Peer{Block: &block}, networkpolicy.Peer{})
		s.Rules = append(s.Rules, r)
	}
	return s
}

// NetworkPolicies are explained as ztunnel asks them, at both ends. What is known in parts
// has no verdict that the whole has not.
func TestNetworkPoliciesAreThoseOfTheSet(t *testing.T) {
	seen := map[Truth]int{}
	for seed := range uint64(3000) {
		d := die{rand.New(rand.NewPCG(seed, 1))}
		namespaces := map[string]workload.Namespace{}
		for _, name := range []string{"shop", "bank"} {
			labels := map[string]string{networkpolicy.ModeLabel: some(d, 1, "enforce", "enforce", "warn", "off")[0]}
			if d.one(2) {
				labels["team"] = "x"
			}
			namespaces[name] = workload.Namespace{Labels: labels}
		}
		var policies []networkpolicy.Policy
		for i := range d.IntN(4) {
			policies = append(policies, networkpolicy.Policy{Namespace: some(d, 1, "shop", "bank")[0], Name: fmt.Sprint("n", i), Ingress: d.side(), Egress: d.side()})
		}
		set := networkpolicy.NewSet()
		set.Replace(policies, namespaces)
		n := &Network{Policies: policies, Modes: set.Modes(), Namespaces: namespaces}
		c := Connection{Dst: db, Port: uint16(some(d, 1, 80, 443)[0]), From: &Source{ID: pay.ID, Addr: pay.Addrs[0], Pod: &pay}}
		c.Dst.Ports = []workload.NamedPort{{Name: "web", Port: 443}}
		ask := func(n *Network, c Connection) Answer {
			a := Explain(policy.Objects{}, c)
			a.AskNetwork(n, c)
			return a
		}
		full, want, by := ask(n, c), Yes, ""
		for _, q := range []networkpolicy.Question{
			{Direction: networkpolicy.Egress, Self: &pay, Peer: &c.Dst, Addr: db.Addrs[0], Port: c.Port},
			{Direction: networkpolicy.Ingress, Self: &c.Dst, Peer: &pay, Addr: pay.Addrs[0], Port: c.Port},
		} {
			if no, mode := set.Ask(&q); no != nil && mode == networkpolicy.Enforce && want == Yes {
				want, by = No, no.Policy
			}
		}
		if full.Allowed != want || full.By != by {
			t.Fatalf("seed %d: explained as %+v; the set says %v by %q", seed, full, want, by)
		}
		id, port, nobody := c, c, c
		id.From, port.Port, nobody.From = &Source{ID: pay.ID}, 0, nil
		for _, a := range []Answer{ask(n, id), ask(n, port), ask(n, nobody), ask(&Network{Policies: policies, Modes: set.Modes()}, c)} {
			if seen[a.Allowed]++; a.Allowed != Open && a.Allowed != want {
				t.Fatalf("seed %d: in parts %+v, as a whole %+v", seed, a, full)
			}
		}
	}
	if seen[No] < 100 || seen[Open] < 100 || seen[Yes] < 100 {
		t.Errorf("of the parts %v", seen)
	}
}
