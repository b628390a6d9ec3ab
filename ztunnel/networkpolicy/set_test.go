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
	s := NewSet()
	var policies []Policy
	for i := range 100 {
		policies = append(policies, admitting("shop", fmt.Sprint("p", i), fmt.Sprint("web", i), "db", 80))
	}
	s.Replace(policies, inMode(map[string]Mode{"shop": Enforce}))
	last, nobody := asks(pod("shop", "db"), pod("shop", "web99"), 80), asks(pod("shop", "db"), nil, 80)
	if denied, _ := s.Ask(last); denied != nil {
		t.Fatal(denied)
	}
	if n := testing.AllocsPerRun(100, func() { s.Ask(last); s.Ask(nobody) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

// The pod network sees port 15008 alone: what a policy admits at another port does not
// arrive there unless some policy admits tunnels of the same peers.
func TestPoliciesThatBlockTunnelsAreNamed(t *testing.T) {
	web := admitting("shop", "web", "web", "db", 80)
	tunnels := admitting("shop", "tunnels", "web", "db", workload.HBONEPort)
	others := admitting("shop", "others", "job", "db", workload.HBONEPort)
	everybody := Policy{Namespace: "shop", Name: "everybody", Ingress: Side{Isolates: true, Rules: []Rule{{Ports: []Port{{First: 15000, Last: 16000}}}}}}
	open := Policy{Namespace: "shop", Name: "open", Ingress: Side{Isolates: true, Rules: []Rule{{}}}}
	closed := Policy{Namespace: "shop", Name: "closed", Ingress: Side{Isolates: true}}
	out := Policy{Namespace: "shop", Name: "out", Egress: Side{Isolates: true, Rules: []Rule{{Ports: []Port{{First: 53, Last: 53}}}}}}
	for _, row := range []struct {
		policies []Policy
		want     []string
	}{
		{nil, nil},
		{[]Policy{web}, []string{"shop/web"}},
		{[]Policy{web, tunnels}, nil},
		{[]Policy{web, others}, []string{"shop/web"}},
		{[]Policy{web, everybody}, nil},
		{[]Policy{open}, nil},
		{[]Policy{web, open}, nil},
		{[]Policy{closed}, nil}, // as it says
		{[]Policy{out, tunnels}, []string{"shop/out"}},
	} {
		s := NewSet()
		s.Replace(row.policies, nil)
		if got := s.Concern(pod("shop", "db")).Blocking(); !slices.Equal(got, row.want) {
			t.Errorf("%v: %v block tunnels, want %v", row.policies, got, row.want)
		}
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
	if names := one.Blocking(); len(names) != n || testing.AllocsPerRun(100, func() { one.Blocking() }) > 0 {
		t.Errorf("%d policies block tunnels, or are looked for twice", len(names))
	}
	policies = slices.Clone(policies)
	policies[0].Pods = app("job-1")
	s.Replace(policies, nil)
	if one, other := s.Concern(pod("shop", "job-1")), s.Concern(pod("shop", "job-2")); one == other || len(other.policies) != n-1 {
		t.Error("policies that select one of two concern both")
	}
}

// BenchmarkAsk asks a pod that 1 or 100 policies select; the last one admits.
func BenchmarkAsk(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint("policies=", n), func(b *testing.B) {
			s := NewSet()
			var policies []Policy
			for i := range n {
				policies = append(policies, admitting("shop", fmt.Sprint("p", i), fmt.Sprint("web", i), "db", 80))
			}
			s.Replace(policies, inMode(map[string]Mode{"shop": Enforce}))
			q := asks(pod("shop", "db"), pod("shop", fmt.Sprint("web", n-1)), 80)
			b.ReportAllocs()
			for b.Loop() {
				s.Ask(q)
			}
		})
	}
}
