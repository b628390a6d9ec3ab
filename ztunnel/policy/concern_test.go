// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func acting(a Action, namespace, name string, rules ...Rule) AuthorizationPolicy {
	return AuthorizationPolicy{Object: Object{Namespace: namespace, Name: name}, Action: a, Rules: rules}
}

func byPrincipal(i int) Rule {
	return Rule{{{Principals: []Pattern{Pattern(fmt.Sprintf("cluster.local/ns/shop/sa/client-%d", i))}}}}
}

// A policy that is not understood may have been a DENY: another that allows does not
// open what it closed.
func TestWhatIsNotUnderstoodRefusesEveryoneBesideWhatAllows(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: []AuthorizationPolicy{acting(Allow, "shop", "a", Rule{}), {Object: Object{Namespace: "shop", Name: "z"}}}})
	want := "AuthorizationPolicy shop/z: not understood by this version"
	if got := text(s.AllowInbound(Request{Peer: client, Dst: web, Port: 80})); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// A state file of a version that did not know rules has policies without an action.
func TestAPolicyOfAnOlderStateFileRefusesEveryone(t *testing.T) {
	var p AuthorizationPolicy
	if err := json.Unmarshal([]byte(`{"Namespace": "shop", "Name": "a", "TargetRefs": false}`), &p); err != nil {
		t.Fatal(err)
	}
	if p.Action != Refuse || !p.enforced() {
		t.Errorf("%+v", p)
	}
}

func TestPoliciesAreReadAsTheyAreWritten(t *testing.T) {
	pattern, prefixes := []Pattern{"*"}, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	accounts, ports := []identity.ServiceAccount{{Namespace: "a", Name: "b"}}, []uint16{80}
	for _, a := range []Action{Refuse, Allow, Deny, Audit, Custom} {
		p := acting(a, "shop", "a", Rule{{{
			Principals: pattern, NotPrincipals: pattern, TrustDomains: pattern, NotTrustDomains: pattern, Namespaces: pattern, NotNamespaces: pattern,
			ServiceAccounts: accounts, NotServiceAccounts: accounts, Sources: prefixes, NotSources: prefixes,
			Destinations: prefixes, NotDestinations: prefixes, Ports: ports, NotPorts: ports,
		}, {}}}, nil)
		p.DryRun, p.TargetRefs, p.Warnings = true, true, []string{"x"}
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got AuthorizationPolicy
		if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%v: read %+v of %s", err, got, data)
		}
	}
	if err := new(Action).UnmarshalText([]byte("")); err == nil {
		t.Error("an action without a name is read")
	}
}

// A policy may be a megabyte, and select a thousand workloads.
func TestAPolicyIsComparedOnceInASnapshot(t *testing.T) {
	s := NewSet()
	for range 2 { // the second is equal, and another object
		s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: []AuthorizationPolicy{acting(Allow, "shop", "a", byPrincipal(1))}})
		k := s.scopes.Load().known
		for _, app := range []string{"web", "db"} {
			s.scopes.Load().concern(workload.Workload{Namespace: "shop", Labels: workload.NewLabels(map[string]string{"app": app})})
		}
		if len(k.compiled.now) != 1 {
			t.Errorf("%d are known by their place, want 1", len(k.compiled.now))
		}
	}
}

func TestWorkloadsOfWhichTheSameIsSaidShareIt(t *testing.T) {
	s := NewSet()
	o := Objects{RootNamespace: root, AuthorizationPolicies: []AuthorizationPolicy{acting(Allow, "shop", "a", byPrincipal(1))}}
	s.Replace(o)
	pod := func(labels ...string) workload.Workload {
		w := web
		set := map[string]string{}
		for _, l := range labels {
			set[l] = "x"
		}
		w.Labels = workload.NewLabels(set)
		return w
	}
	one := s.Concern(pod("one"))
	if s.Concern(pod("two")) != one {
		t.Error("two workloads with the same policies have an index each")
	}
	o.AuthorizationPolicies = []AuthorizationPolicy{acting(Allow, "shop", "a", byPrincipal(1)), acting(Deny, "bank", "b", Rule{})}
	s.Replace(o)
	if s.Concern(pod("one")) != one || s.Concern(pod("two")) != one {
		t.Error("what did not change is made again")
	}
	o.AuthorizationPolicies = []AuthorizationPolicy{acting(Allow, "shop", "a", byPrincipal(2))}
	s.Replace(o)
	if s.Concern(pod("one")) == one {
		t.Error("a policy changed, and what it says did not")
	}
	mode := Objects{RootNamespace: root, AuthorizationPolicies: o.AuthorizationPolicies, PeerAuthentications: []PeerAuthentication{namespace(Strict)}}
	before := s.Concern(pod("one"))
	s.Replace(mode)
	if s.Concern(pod("one")) == before {
		t.Error("the mode changed, and what is said did not")
	}
}

// The labels of Jobs' pods are never seen again.
func TestWhatIsSaidOfPodsThatAreGoneIsForgotten(t *testing.T) {
	s := NewSet()
	pod := func(i int) workload.Workload {
		w := web
		w.Labels = workload.NewLabels(map[string]string{"job": fmt.Sprint(i)})
		return w
	}
	for i := range 10 * minSwept {
		s.Concern(pod(0))
		s.Concern(pod(i))
	}
	k := s.scopes.Load().known
	if n := len(k.byWho); n > 2*minSwept {
		t.Errorf("%d are kept", n)
	}
	if k.byWho[whom{web.Namespace, pod(0).Labels}] == nil {
		t.Error("one that is asked for all the time is gone")
	}
	s.Concern(pod(0))
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{mesh(Strict)}})
	s.Concern(pod(0))
	s.Replace(Objects{RootNamespace: root})
	if n := len(s.scopes.Load().known.byWho); n != 1 {
		t.Errorf("%d were carried over twice, want the one that was asked for", n)
	}
}

// hundred has a hundred rules of the kinds that there are, of which the last matches.
func hundred() []AuthorizationPolicy {
	var rules []Rule
	for i := range 25 {
		rules = append(rules,
			byPrincipal(i),
			Rule{{{Namespaces: []Pattern{Pattern(fmt.Sprint("ns-", i))}}}, {{Ports: []uint16{uint16(i + 1)}}}},
			Rule{{{Sources: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24)}}}},
			Rule{{{Principals: []Pattern{Pattern(fmt.Sprintf("cluster.local/ns/team-%d/*", i))}}}, {{Ports: []uint16{8080}}}})
	}
	rules = append(rules, Rule{{{Principals: []Pattern{"*/sa/client"}}}})
	return []AuthorizationPolicy{acting(Allow, "shop", "a", rules...), acting(Deny, "shop", "d", rules[:100]...)}
}

func TestADecisionAllocatesNothing(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: hundred()})
	for _, r := range []Request{
		{Peer: client, Src: netip.MustParseAddr("10.0.0.1"), Addr: netip.MustParseAddr("10.0.1.1"), Dst: web, Port: 80},
		{Src: netip.MustParseAddr("::ffff:10.0.0.1"), Dst: web, Port: 80}, // refused
	} {
		if n := testing.AllocsPerRun(100, func() { _ = s.AllowInbound(r) }); n > 0 {
			t.Errorf("%v: %v allocations", r.Peer, n)
		}
	}
	if err := s.AllowInbound(Request{Peer: client, Dst: web, Port: 80}); err != nil {
		t.Error(err)
	}
}

// mixed has rules of one kind each, and hundred's of all kinds.
func mixed(kind string) (policies []AuthorizationPolicy) {
	one := map[string]func(i int) Match{
		"prefix": func(i int) Match {
			return Match{Principals: []Pattern{Pattern(fmt.Sprintf("cluster.local/ns/team-%d/*", i))}}
		},
		"suffix": func(i int) Match { return Match{Principals: []Pattern{Pattern(fmt.Sprintf("*/sa/client-%d", i))}} },
		"cidr": func(i int) Match {
			return Match{Sources: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24)}}
		},
	}[kind]
	if one == nil {
		return hundred()
	}
	var rules []Rule
	for i := range 100 {
		rules = append(rules, Rule{{one(i)}})
	}
	return []AuthorizationPolicy{acting(Allow, "shop", "a", rules...)}
}

// linear is what it would cost to ask all rules of the workload always.
func BenchmarkDecision(b *testing.B) {
	peer := spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/client-99")
	r := Request{Peer: peer, Src: netip.MustParseAddr("10.0.0.1"), Dst: web, Port: 80}
	asked := func(name string, policies []AuthorizationPolicy) {
		s := NewSet()
		s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: policies})
		s.Concern(web)
		b.Run("indexed/"+name, func(b *testing.B) {
			for b.Loop() {
				_ = s.AllowInbound(r)
			}
		})
	}
	linear := func(name string, policies []AuthorizationPolicy) {
		var rules []*rule
		for _, p := range policies {
			rules = append(rules, compile(p).rules...)
		}
		b.Run("linear/"+name, func(b *testing.B) {
			for b.Loop() {
				q := ask(&r)
				_ = slices.IndexFunc(rules, func(r *rule) bool { return r.matches(&q) })
			}
		})
	}
	for _, n := range []int{1, 10, 100, 1000, 10000} {
		var rules []Rule
		for i := range n {
			rules = append(rules, byPrincipal(i))
		}
		policies := []AuthorizationPolicy{acting(Allow, "shop", "a", rules...)}
		asked(fmt.Sprintf("rules=%d", n), policies)
		linear(fmt.Sprintf("rules=%d", n), policies)
	}
	for _, kind := range []string{"prefix", "suffix", "cidr", "all"} {
		asked("mixed="+kind, mixed(kind))
		linear("mixed="+kind, mixed(kind))
	}
	for _, n := range []int{10, 10000} {
		var policies []AuthorizationPolicy
		for i := range n {
			policies = append(policies, acting(Allow, fmt.Sprint("ns-", i), "a", byPrincipal(i)))
		}
		asked(fmt.Sprintf("others=%d", n), append(policies, acting(Allow, "shop", "a", byPrincipal(99))))
	}
}

// A snapshot with 10,000 policies on a node with 1,000 workloads, of which one policy
// changed.
func BenchmarkReplace(b *testing.B) {
	policies := func(port uint16) (all []AuthorizationPolicy) {
		for i := range 10000 {
			all = append(all, acting(Allow, fmt.Sprint("ns-", i/10), fmt.Sprint("p", i), byPrincipal(i)))
		}
		all[0].Rules = []Rule{{{{Ports: []uint16{port}}}}}
		return all
	}
	s := NewSet()
	sets := [][]AuthorizationPolicy{policies(1), policies(2)}
	ask := func() {
		for i := range 1000 {
			w := web
			w.Namespace = fmt.Sprint("ns-", i)
			s.Concern(w)
		}
	}
	ask()
	i := 0
	for b.Loop() {
		i++
		s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: sets[i%2]})
		ask()
	}
}
