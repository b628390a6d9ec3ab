// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// walk asks every rule, one after the other.
func (c *Concern) walk(w *world, q *Question) bool {
	return slices.ContainsFunc(c.sides[q.Direction].rules, func(r Rule) bool {
		return r.hasPort(q) && (len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.has(w, q) }))
	})
}

type die struct{ *rand.Rand }

func (d die) one(of ...string) string { return of[d.IntN(len(of))] }

func (d die) selector(keys, values []string) *Selector {
	s := Selector{}
	for range d.IntN(3) {
		r := Requirement{Key: d.one(keys...), Operator: []Operator{In, In, In, NotIn, Exists, DoesNotExist}[d.IntN(6)]}
		if r.Operator == In || r.Operator == NotIn {
			for range d.IntN(4) {
				r.Values = append(r.Values, d.one(values...))
			}
		}
		s = append(s, r)
	}
	return &s
}

func (d die) peer() (p Peer) {
	switch d.IntN(8) {
	case 0:
		return Peer{}
	case 1, 2:
		p.Block = &Block{CIDR: netip.MustParsePrefix(d.one("10.0.0.0/8", "10.0.0.0/24", "10.0.0.7/30", "10.0.0.1/32", "0.0.0.0/0", "::/0", "fd00::/64", "fd00::1/128"))}
		if d.IntN(2) == 0 {
			p.Block.Except = []netip.Prefix{netip.MustParsePrefix(d.one("10.0.0.1/32", "10.0.0.4/31", "fd00::1/128"))}
		}
		return p
	}
	if d.IntN(3) > 0 {
		p.Pods = d.selector([]string{"app", "tier"}, []string{"a", "b", "c", ""})
	}
	if d.IntN(2) > 0 {
		p.Namespaces = d.selector([]string{"team", "env", NameLabel}, []string{"x", "y", "shop", "bank"})
	}
	return p
}

func (d die) port() Port {
	if d.IntN(4) == 0 {
		return Port{Name: d.one("http", "sql")}
	}
	first := uint16(80 + d.IntN(3))
	return Port{First: first, Last: first + uint16([]int{0, 0, 0, 2, 7, 60000}[d.IntN(6)])}
}

func (d die) side() Side {
	s := Side{Isolates: d.IntN(8) > 0}
	for i := range d.IntN(4) {
		r := Rule{Index: i}
		for range d.IntN(3) {
			r.Peers = append(r.Peers, d.peer())
		}
		for range d.IntN(3) {
			r.Ports = append(r.Ports, d.port())
		}
		s.Rules = append(s.Rules, r)
	}
	if d.IntN(32) == 0 {
		s.Rules = append(s.Rules, Rule{Index: len(s.Rules), Peers: manyBlocks(largeSide)})
	}
	return s
}

func TestTheIndexAgreesWithAllRulesAskedOneByOne(t *testing.T) {
	d := die{rand.New(rand.NewPCG(3, 11))}
	namespaces := map[string]workload.Namespace{
		"shop": {Labels: map[string]string{"team": "x", ModeLabel: "enforce"}},
		"bank": {Labels: map[string]string{"team": "y", "env": "x"}},
		"bare": {},
	}
	var pods []*workload.Workload
	for _, namespace := range []string{"shop", "bank", "bare", "unknown"} {
		for _, labels := range []map[string]string{nil, {"app": "a"}, {"app": "b", "tier": "c"}, {"tier": ""}} {
			pods = append(pods, &workload.Workload{Namespace: namespace, Labels: workload.NewLabels(labels),
				Ports: []workload.NamedPort{{Name: "http", Port: 80}, {Name: "sql", Port: 81}, {Name: "web", Port: 80}}[:len(labels)]})
		}
	}
	admitted, refused := 0, 0
	for round := range 300 {
		var policies []Policy
		for i := range 1 + d.IntN(20) {
			policies = append(policies, Policy{Namespace: "shop", Name: fmt.Sprint(i), Ingress: d.side(), Egress: d.side()})
		}
		s := NewSet()
		s.Replace(policies, namespaces)
		w := s.world.Load()
		for range 500 {
			q := &Question{Direction: Direction(d.IntN(2)), Self: pods[d.IntN(4)], Port: uint16(79 + d.IntN(12)),
				Addr: netip.MustParseAddr(d.one("10.0.0.1", "10.0.0.5", "10.0.1.1", "192.0.2.1", "fd00::1", "fd00:1::1", "::ffff:10.0.0.1", "fe80::1%eth0"))}
			if d.IntN(5) > 0 {
				q.Peer = pods[d.IntN(len(pods))]
			}
			c := s.Concern(q.Self)
			if c == nil || c.sides[q.Direction].denied == nil {
				continue
			}
			want := c.walk(w, q)
			if denied, _ := s.Ask(q); want != (denied == nil) {
				t.Fatalf("round %d: %+v: refused by %v, asked one by one: admitted %v\n%+v", round, q, denied, want, policies)
			}
			if want {
				admitted++
			} else {
				refused++
			}
		}
	}
	if admitted < refused/20 || refused < admitted/20 {
		t.Errorf("%d admitted, %d refused: the policies are not random enough", admitted, refused)
	}
}

// manyBlocks are n addresses that nobody has in a test.
func manyBlocks(n int) (all []Peer) {
	for i := range n {
		addr := netip.AddrFrom4([4]byte{172, 16 + byte(i>>16), byte(i >> 8), byte(i)})
		all = append(all, Peer{Block: &Block{CIDR: netip.PrefixFrom(addr, 32)}})
	}
	return all
}

// An object of many address blocks selects pods of many Concerns: it takes its memory once,
// and little for each block.
func TestConcernsShareTheIndexOfALargePolicy(t *testing.T) {
	const blocks, concerns = 1000, 24
	large := Policy{Namespace: "shop", Name: "large", Egress: Side{Isolates: true,
		Rules: []Rule{{Peers: manyBlocks(blocks), Ports: []Port{{First: 443, Last: 443}}}}}}
	policies := []Policy{large}
	for i := range concerns {
		policies = append(policies, Policy{Namespace: "shop", Name: fmt.Sprint(i), Pods: app(fmt.Sprint(i)), Egress: Side{Isolates: true}})
	}
	s := NewSet()
	s.Replace(policies, inMode(map[string]Mode{"shop": Enforce}))
	shared := map[*index]int{}
	for i := range concerns {
		for _, x := range s.Concern(pod("shop", fmt.Sprint(i))).sides[Egress].indexes {
			shared[x]++
		}
	}
	found := false
	for x, by := range shared {
		found = found || by == concerns
		for b := range x.blocks.Holding(netip.MustParseAddr("172.16.0.1")) {
			if by != concerns || b.ports != nil || b.names != nil || len(b.rest) != 1 {
				t.Errorf("%d Concerns share an index with %+v for one block, want all, and no maps", by, b)
			}
		}
	}
	if !found {
		t.Errorf("no index is shared by all %d Concerns", concerns)
	}
}

// A range takes few places, and a long list of ports, too.
func TestARangeOfPortsTakesOnePlace(t *testing.T) {
	rules := slices.Repeat([]Rule{{Ports: []Port{{First: 1, Last: 1}}}}, fewAdmissions) // which are asked at every port, too
	rules = append(rules, Rule{Ports: []Port{{First: 1, Last: 65535}}}, Rule{Ports: []Port{{Last: 65535}}})
	for i := range maxPorts + 1 {
		rules = append(rules, Rule{})
		for range i {
			rules[len(rules)-1].Ports = append(rules[len(rules)-1].Ports, Port{First: uint16(i), Last: uint16(i)})
		}
	}
	rules = append(rules, Rule{Ports: []Port{{First: 1, Last: 5}, {First: 100, Last: 105}}})
	if x := newIndex("shop", rules); len(x.everybody.rest) != fewAdmissions+4 {
		t.Errorf("%d rules are asked at every port, want the first few, two ranges, one without ports and one of 11", len(x.everybody.rest))
	}
}
