// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func pod(namespace, app string) *workload.Workload {
	return &workload.Workload{Namespace: namespace, Name: app, Labels: workload.NewLabels(map[string]string{"app": app})}
}

func app(name string) Selector { return Selector{{Key: "app", Operator: In, Values: []string{name}}} }

// admitting is a policy of a namespace that lets the pods of one app reach a port of another.
func admitting(namespace, name, from, to string, port uint16) Policy {
	pods := app(from)
	return Policy{Namespace: namespace, Name: name, Pods: app(to), Ingress: Side{Isolates: true,
		Rules: []Rule{{Peers: []Peer{{Pods: &pods}}, Ports: []Port{{First: port, Last: port}}}}}}
}

func inMode(modes map[string]Mode) map[string]workload.Namespace {
	out := map[string]workload.Namespace{}
	for name, m := range modes {
		out[name] = workload.Namespace{Labels: map[string]string{ModeLabel: string(m)}}
	}
	return out
}

func asks(self, peer *workload.Workload, port uint16) *Question {
	return &Question{Self: self, Peer: peer, Addr: netip.MustParseAddr("10.0.0.9"), Port: port}
}

func TestTheLabelOfANamespaceSaysWhatBecomesOfARefusal(t *testing.T) {
	for _, row := range []struct {
		labels  map[string]string
		mode    Mode
		strange bool
	}{
		{nil, Warn, false},
		{map[string]string{ModeLabel: "enforce"}, Enforce, false},
		{map[string]string{ModeLabel: "warn"}, Warn, false},
		{map[string]string{ModeLabel: "off"}, Off, false},
		{map[string]string{ModeLabel: ""}, Warn, true},
		{map[string]string{ModeLabel: "Enforce"}, Warn, true},
	} {
		mode, strange := ModeOf(row.labels)
		if mode != row.mode || strange != row.strange {
			t.Errorf("%v: %v, strange: %v; want %v, %v", row.labels, mode, strange, row.mode, row.strange)
		}
		s := NewSet()
		s.Replace([]Policy{admitting("shop", "p", "web", "db", 80)}, map[string]workload.Namespace{"shop": {Labels: row.labels}})
		denied, mode := s.Ask(asks(pod("shop", "db"), pod("shop", "web"), 81))
		if (denied != nil) != (row.mode != Off) || mode != row.mode {
			t.Errorf("%v: refused by %v in mode %v", row.labels, denied, mode)
		}
	}
}

// Open connections are asked again when the Concern of their pod is another one.
func TestAConcernChangesWithWhatItSaysAndWithNothingElse(t *testing.T) {
	s := NewSet()
	enforce := inMode(map[string]Mode{"shop": Enforce, "bank": Enforce})
	db, job, vault := pod("shop", "db"), pod("shop", "job"), pod("bank", "vault")
	base := []Policy{
		admitting("shop", "a", "web", "db", 80), admitting("shop", "b", "web", "job", 80), admitting("bank", "c", "web", "vault", 80),
	}
	s.Replace(base, enforce)
	before := map[*workload.Workload]*Concern{}
	for _, p := range []*workload.Workload{db, job, vault} {
		before[p] = s.Concern(p)
	}
	changed := func() (who []string) {
		for _, p := range []*workload.Workload{db, job, vault} {
			if now := s.Concern(p); now != before[p] {
				who = append(who, p.Name)
				before[p] = now
			}
		}
		return who
	}
	again := func(port uint16) []Policy {
		return []Policy{admitting("shop", "a", "web", "db", port), admitting("shop", "b", "web", "job", 80), admitting("bank", "c", "web", "vault", 80)}
	}
	for _, step := range []struct {
		what       string
		policies   []Policy
		namespaces map[string]workload.Namespace
		want       []string
	}{
		{"the same objects again", again(80), enforce, nil},
		{"a policy of one of them", again(81), enforce, []string{"db"}},
		{"and back", again(80), enforce, []string{"db"}},
		{"the mode of a namespace", again(80), inMode(map[string]Mode{"shop": Enforce, "bank": Warn}), []string{"vault"}},
		{"none of one namespace", again(80)[:2], enforce, []string{"vault"}},
		{"none at all", nil, enforce, []string{"db", "job"}},
	} {
		if s.Replace(step.policies, step.namespaces); !slices.Equal(changed(), step.want) {
			t.Errorf("%s: not %v alone", step.what, step.want)
		}
	}
}

func TestAConcernOfManyLabelsIsForgotten(t *testing.T) {
	s := NewSet()
	s.Replace([]Policy{{Namespace: "shop", Name: "all", Ingress: Side{Isolates: true}}}, nil)
	for i := range 3 * maxConcerns {
		if s.Concern(pod("shop", fmt.Sprint(i))) == nil {
			t.Fatal("a policy for all selects one of them no more")
		}
	}
	if n := len(s.world.Load().ruled["shop"].concerns); n > maxConcerns {
		t.Errorf("%d are remembered, want at most %d", n, maxConcerns)
	}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	for name, peer := range manyPeers {
		s := manyPolicies(100, peer)
		last, nobody := asks(pod("shop", "db"), manyPod(99), 80), asks(pod("shop", "db"), nil, 80)
		last.Addr, nobody.Addr = manyAddr(99), netip.MustParseAddr("192.0.2.1")
		if denied, _ := s.Ask(last); denied != nil {
			t.Fatalf("%s: %v", name, denied)
		}
		if n := testing.AllocsPerRun(100, func() { s.Ask(last); s.Ask(nobody) }); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// manyPeers are ways in which each of many policies names a peer of its own.
var manyPeers = map[string]func(i int) Peer{
	"labels": func(i int) Peer { s := app(fmt.Sprint("web", i)); return Peer{Pods: &s} },
	"namespaces": func(i int) Peer {
		return Peer{Namespaces: &Selector{{Key: NameLabel, Operator: In, Values: []string{fmt.Sprint("team", i)}}}}
	},
	"labels of namespaces": func(i int) Peer {
		return Peer{Namespaces: &Selector{{Key: "team", Operator: In, Values: []string{fmt.Sprint("team", i)}}}}
	},
	"blocks": func(i int) Peer { return Peer{Block: &Block{CIDR: netip.PrefixFrom(manyAddr(i), 32)}} },
}

func manyAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}) }

// manyPod is the peer of policy i, with labels as a Deployment's pods have.
func manyPod(i int) *workload.Workload {
	return &workload.Workload{Namespace: fmt.Sprint("team", i), Name: "p", Labels: workload.NewLabels(map[string]string{
		"app": fmt.Sprint("web", i), "app.kubernetes.io/instance": "web", "pod-template-hash": "5d8f7c6b9", "topology": "a",
	})}
}

// manyPolicies is n policies that select db, of namespace shop.
func manyPolicies(n int, peer func(i int) Peer) *Set {
	var policies []Policy
	namespaces := inMode(map[string]Mode{"shop": Enforce})
	for i := range n {
		p := peer(i)
		if p.Pods != nil {
			p.Namespaces = &Selector{}
		}
		policies = append(policies, Policy{Namespace: "shop", Name: fmt.Sprint("p", i), Pods: app("db"), Ingress: Side{Isolates: true,
			Rules: []Rule{{Peers: []Peer{p}, Ports: []Port{{First: 80, Last: 80}}}}}})
		namespaces[fmt.Sprint("team", i)] = workload.Namespace{Labels: map[string]string{"team": fmt.Sprint("team", i), "env": "prod"}}
	}
	s := NewSet()
	s.Replace(policies, namespaces)
	return s
}

// BenchmarkAsk asks a pod that 1, 100 or 1,000 policies select, each for a peer of its own; the
// last one admits.
func BenchmarkAsk(b *testing.B) {
	for name, peer := range manyPeers {
		for _, n := range []int{1, 100, 1000} {
			b.Run(fmt.Sprintf("%s/policies=%d", name, n), func(b *testing.B) {
				s := manyPolicies(n, peer)
				q := asks(pod("shop", "db"), manyPod(n-1), 80)
				q.Addr = manyAddr(n - 1)
				if denied, _ := s.Ask(q); denied != nil {
					b.Fatal(denied)
				}
				b.ReportAllocs()
				for b.Loop() {
					s.Ask(q)
				}
			})
		}
	}
}
