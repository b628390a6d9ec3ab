// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"maps"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Open connections are asked again when their grounds are others: only when what the rules
// ask for has changed.
func TestGroundsChangeWithWhatRulesAskForAndWithNothingElse(t *testing.T) {
	byLabel, byName := app("web"), Peer{Namespaces: &Selector{{Key: "team", Operator: Exists}}}
	rules := map[string]Rule{
		"labels":     {Peers: []Peer{{Pods: &byLabel}}},
		"namespaces": {Peers: []Peer{byName}},
		"all pods":   {Peers: []Peer{{Pods: &Selector{}}}},
		"blocks":     {Peers: []Peer{manyPeers["blocks"](1)}},
		"ports":      {Ports: []Port{{First: 80, Last: 80}}},
		"names":      {Ports: []Port{{Name: "http"}}},
	}
	type world struct {
		self, peer *workload.Workload
		team       string
		policies   []Policy
	}
	changes := map[string]func(*world){
		"nothing":                    func(*world) {},
		"a label of the peer":        func(w *world) { w.peer.Labels = workload.NewLabels(map[string]string{"app": "job"}) },
		"a label of its namespace":   func(w *world) { w.team = "b" },
		"who the peer is":            func(w *world) { w.peer = nil },
		"the name of the port":       func(w *world) { w.self.Ports = nil },
		"another policy of the pod":  func(w *world) { w.policies = append(w.policies, admitting("shop", "q", "a", "db", 1)) },
		"a policy of somebody else":  func(w *world) { w.policies = append(w.policies, admitting("shop", "q", "a", "web", 1)) },
		"the peer's name and status": func(w *world) { w.peer.Name, w.peer.Ready = "x", true },
	}
	concerned := map[string][]string{
		"a label of the peer":       {"labels"},
		"a label of its namespace":  {"namespaces"},
		"who the peer is":           {"labels", "namespaces", "all pods"},
		"the name of the port":      {"names"},
		"another policy of the pod": {"labels", "namespaces", "all pods", "blocks", "ports", "names"},
	}
	for what, change := range changes {
		asked := map[string]bool{}
		for name, rule := range rules {
			w := world{self: pod("shop", "db"), peer: pod("bank", "web"), team: "a"}
			w.self.Ports = []workload.NamedPort{{Name: "http", Port: 80}}
			w.policies = []Policy{{Namespace: "shop", Name: "p", Pods: app("db"), Ingress: Side{Isolates: true, Rules: []Rule{rule}}}}
			s := NewSet()
			grounds := func() Grounds {
				namespaces := inMode(map[string]Mode{"shop": Enforce})
				namespaces["bank"] = workload.Namespace{Labels: map[string]string{"team": w.team}}
				s.Replace(w.policies, namespaces)
				q := asks(w.self, w.peer, 80)
				_, _, judged := s.Judge(q)
				if judged != s.Grounds(q) {
					t.Errorf("%s: judged by other grounds", name)
				}
				return judged
			}
			before := grounds()
			change(&w)
			if grounds() != before {
				asked[name] = true
			}
		}
		want := map[string]bool{}
		for _, name := range concerned[what] {
			want[name] = true
		}
		if !maps.Equal(asked, want) {
			t.Errorf("%s: concerns rules by %v, want %v", what, asked, want)
		}
	}
}
