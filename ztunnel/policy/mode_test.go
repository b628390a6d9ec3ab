// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const root = "istio-system"

var web = workload.Workload{UID: "u1", Namespace: "shop", Name: "web-1", ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"), Labels: workload.NewLabels(map[string]string{"app": "web", "tier": "front"})}

// at is a creation time.
func at(sec int64) time.Time { return time.Unix(sec, 0) }

func mesh(m Mode) PeerAuthentication {
	return PeerAuthentication{Object: Object{Namespace: root, Name: "default"}, Mode: m}
}

func namespace(m Mode) PeerAuthentication {
	return PeerAuthentication{Object: Object{Namespace: "shop", Name: "default"}, Mode: m}
}

func selecting(m Mode, ports map[uint16]Mode) PeerAuthentication {
	return PeerAuthentication{Object: Object{Namespace: "shop", Name: "web", Selector: Selector{"app": "web"}}, Mode: m, Ports: ports}
}

func (p PeerAuthentication) named(name string) PeerAuthentication { p.Name = name; return p }
func (p PeerAuthentication) created(sec int64) PeerAuthentication { p.Created = at(sec); return p }

// conformance is Appendix A of facts/enrollment-policy-ux.md: on which ports a
// plaintext connection is refused; on all others it is allowed.
var conformance = []struct {
	number   int
	trap     string
	policies []PeerAuthentication
	refused  []uint16
	allowed  []uint16
}{
	{1, "default is PERMISSIVE", nil, nil, []uint16{80, 8080}},
	{2, "mesh STRICT reaches every namespace", []PeerAuthentication{mesh(Strict)}, []uint16{80}, nil},
	{3, "namespace overrides mesh", []PeerAuthentication{mesh(Strict), namespace(Permissive)}, nil, []uint16{80}},
	{4, "UNSET namespace inherits", []PeerAuthentication{mesh(Strict), namespace(Unset)}, []uint16{80}, nil},
	{5, "namespace STRICT over mesh PERMISSIVE", []PeerAuthentication{mesh(Permissive), namespace(Strict)}, []uint16{80}, nil},
	{6, "workload overrides", []PeerAuthentication{mesh(Permissive), namespace(Strict), selecting(Permissive, nil)}, nil, []uint16{80}},
	{7, "workload UNSET inherits", []PeerAuthentication{mesh(Permissive), namespace(Strict), selecting(Unset, nil)}, []uint16{80}, nil},
	{8, "exemption under STRICT", []PeerAuthentication{selecting(Strict, map[uint16]Mode{8080: Permissive})}, []uint16{80, 8081}, []uint16{8080}},
	{9, "DISABLE equals PERMISSIVE inbound", []PeerAuthentication{selecting(Strict, map[uint16]Mode{8080: Disable})}, []uint16{80, 8081}, []uint16{8080}},
	{10, "one STRICT port", []PeerAuthentication{selecting(Permissive, map[uint16]Mode{9090: Strict})}, []uint16{9090}, []uint16{80, 9091}},
	{11, "several STRICT ports", []PeerAuthentication{selecting(Permissive, map[uint16]Mode{9090: Strict, 9091: Strict})}, []uint16{9090, 9091}, []uint16{80, 9092}},
	{12, "exemption by DISABLE from an inherited STRICT", []PeerAuthentication{mesh(Strict), selecting(Unset, map[uint16]Mode{8080: Disable})}, []uint16{80, 8081}, []uint16{8080}},
	{13, "exemption by PERMISSIVE from an inherited STRICT", []PeerAuthentication{mesh(Strict), selecting(Unset, map[uint16]Mode{8080: Permissive})}, []uint16{80, 8081}, []uint16{8080}},
	{14, "no exemption in the list", []PeerAuthentication{mesh(Strict), namespace(Strict), selecting(Unset, map[uint16]Mode{8080: Strict})}, []uint16{80, 8080}, nil},
	{15, "STRICT port under DISABLE", []PeerAuthentication{namespace(Strict), selecting(Disable, map[uint16]Mode{7000: Strict})}, []uint16{7000}, []uint16{80, 7001}},
	{16, "namespace PERMISSIVE for the rest", []PeerAuthentication{mesh(Strict), namespace(Permissive), selecting(Unset, map[uint16]Mode{7000: Strict, 7001: Permissive})}, []uint16{7000}, []uint16{80, 7001}},
	{17, "oldest of a namespace wins", []PeerAuthentication{namespace(Strict).named("a").created(2), namespace(Permissive).named("b").created(1)}, nil, []uint16{80}},
	{18, "oldest of a workload wins", []PeerAuthentication{selecting(Permissive, nil).named("a").created(2), selecting(Strict, nil).named("b").created(1)}, []uint16{80}, nil},
	{19, "a selector in the root namespace is ignored", []PeerAuthentication{
		{Object: Object{Namespace: root, Name: "web", Selector: Selector{"app": "web"}}, Mode: Strict}}, nil, []uint16{80}},
	{20, "empty matchLabels is for the namespace", []PeerAuthentication{
		{Object: Object{Namespace: "shop", Name: "all", Selector: Selector{}}, Mode: Strict}}, []uint16{80}, nil},
	{21, "same age: the first by name", []PeerAuthentication{namespace(Permissive).named("b"), namespace(Strict).named("a")}, []uint16{80}, nil},
	{22, "ports are the pod's, not a service's", []PeerAuthentication{selecting(Permissive, map[uint16]Mode{8080: Strict})}, []uint16{8080}, []uint16{80}},
}

// A003-7: Istio's PeerAuthentication, unchanged.
func TestModesAsInAppendixA(t *testing.T) {
	for i, c := range conformance {
		if c.number != i+1 {
			t.Fatalf("vector %d is missing", i+1)
		}
		t.Run(strconv.Itoa(c.number)+" "+c.trap, func(t *testing.T) {
			s := NewSet()
			s.Replace(Objects{RootNamespace: root, PeerAuthentications: c.policies})
			for _, port := range c.refused {
				if err := s.AllowInbound(Request{Dst: web, Port: port}); err == nil {
					t.Errorf("plaintext to port %d is allowed, mode %v", port, s.Mode(web, port))
				}
			}
			for _, port := range c.allowed {
				if err := s.AllowInbound(Request{Dst: web, Port: port}); err != nil {
					t.Errorf("plaintext to port %d: %v", port, err)
				}
			}
			for _, port := range append(c.refused, c.allowed...) {
				if err := s.AllowInbound(Request{Peer: client, Dst: web, Port: port}); err != nil {
					t.Errorf("a verified peer to port %d: %v", port, err)
				}
			}
		})
	}
}

// istio/istio#51556, ISTIO-SECURITY-2026-002: a policy acted in another namespace.
func TestPoliciesOfOtherNamespacesAndForOtherLabelsDoNotApply(t *testing.T) {
	s := NewSet()
	other := namespace(Strict)
	other.Namespace = "bank"
	back := selecting(Strict, map[uint16]Mode{80: Strict})
	back.Selector = Selector{"app": "web", "tier": "back"}
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{other, back}})
	if got := s.Mode(web, 80); got != Permissive {
		t.Errorf("mode %v", got)
	}
}

func TestTheRootNamespacesOwnPodsFollowTheMesh(t *testing.T) {
	s := NewSet()
	ignored := PeerAuthentication{Object: Object{Namespace: root, Name: "web", Selector: Selector{"app": "web"}}, Mode: Permissive}
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{mesh(Strict), ignored}})
	w := web
	w.Namespace = root
	if got := s.Mode(w, 80); got != Strict {
		t.Errorf("mode %v", got)
	}
}

func TestPortsWithoutASelectorMeanNothing(t *testing.T) {
	s := NewSet()
	p := namespace(Strict)
	p.Ports = map[uint16]Mode{8080: Permissive}
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: []PeerAuthentication{p}})
	if got := s.Mode(web, 8080); got != Strict {
		t.Errorf("mode %v", got)
	}
}

// model is the rule in other words: put every statement that concerns the port
// in a row from narrow to wide, and take the first that says something.
func model(policies []PeerAuthentication, dst workload.Workload, port uint16) Mode {
	oldest := func(of func(PeerAuthentication) bool) *PeerAuthentication {
		var best *PeerAuthentication
		for i, p := range policies {
			if !of(p) {
				continue
			}
			if best == nil || p.Created.Before(best.Created) ||
				p.Created.Equal(best.Created) && p.Namespace+"/"+p.Name < best.Namespace+"/"+best.Name {
				best = &policies[i]
			}
		}
		return best
	}
	var said []Mode
	if w := oldest(func(p PeerAuthentication) bool {
		if p.Namespace != dst.Namespace || p.Namespace == root || len(p.Selector) == 0 {
			return false
		}
		for k, v := range p.Selector {
			if got, _ := dst.Labels.Get(k); got != v {
				return false
			}
		}
		return true
	}); w != nil {
		said = append(said, w.Ports[port], w.Mode)
	}
	for _, ns := range []string{dst.Namespace, root} {
		if p := oldest(func(p PeerAuthentication) bool { return p.Namespace == ns && len(p.Selector) == 0 }); p != nil {
			said = append(said, p.Mode)
		}
	}
	return cmp.Or(append(said, Permissive)...)
}

// A003-5, A003-6. istio/istio#54146, #53884, #51556: modes of several scopes were joined wrongly.
func TestAllCombinationsOfModesAgreeWithTheModel(t *testing.T) {
	const absent = Mode(255)
	modes := []Mode{absent, Unset, Permissive, Strict, Disable}
	for _, m := range modes {
		for _, n := range modes {
			for _, w := range modes {
				for _, p := range modes {
					for _, q := range modes {
						var policies []PeerAuthentication
						if m != absent {
							policies = append(policies, mesh(m))
						}
						if n != absent {
							policies = append(policies, namespace(n))
						}
						if w != absent {
							ports := map[uint16]Mode{}
							if p != absent {
								ports[8080] = p
							}
							if q != absent {
								ports[8081] = q
							}
							policies = append(policies, selecting(w, ports))
						}
						agree(t, policies, web)
					}
				}
			}
		}
	}
}

func TestCrowdsOfPoliciesAgreeWithTheModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	some := func() Mode { return Mode(r.IntN(4)) }
	for range 3000 {
		var policies []PeerAuthentication
		for i := range r.IntN(9) {
			p := PeerAuthentication{Mode: some(), Object: Object{
				Namespace: []string{root, "shop", "bank"}[r.IntN(3)], Name: fmt.Sprint("p", i), Created: at(r.Int64N(3)),
			}}
			if r.IntN(2) == 0 {
				p.Selector = []Selector{{"app": "web"}, {"tier": "front"}, {"app": "db"}, {}}[r.IntN(4)]
				p.Ports = map[uint16]Mode{8080: some(), 8081: some()}
			}
			policies = append(policies, p)
		}
		r.Shuffle(len(policies), func(i, j int) { policies[i], policies[j] = policies[j], policies[i] })
		for _, ns := range []string{root, "shop", "bank"} {
			w := web
			w.Namespace = ns
			agree(t, policies, w)
		}
	}
}

func agree(t *testing.T, policies []PeerAuthentication, dst workload.Workload) {
	t.Helper()
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, PeerAuthentications: policies})
	for _, port := range []uint16{80, 8080, 8081} {
		want := model(policies, dst, port)
		if got := s.Mode(dst, port); got != want {
			t.Fatalf("%v port %d: mode %v, the model says %v\n%+v", dst, port, got, want, policies)
		}
		refused := s.AllowInbound(Request{Dst: dst, Port: port}) != nil
		if refused != (want == Strict) {
			t.Fatalf("%v port %d: refused %v under %v", dst, port, refused, want)
		}
	}
}

// A guard asks for all ports at once, and must be told what each would be.
func TestRefusesPlaintextAgreesWithEveryPort(t *testing.T) {
	for _, policies := range [][]PeerAuthentication{
		nil, {mesh(Strict)}, {mesh(Strict), namespace(Permissive)}, {namespace(Strict)},
		{selecting(Unset, map[uint16]Mode{80: Strict}), mesh(Permissive)},
		{selecting(Strict, map[uint16]Mode{80: Permissive, 81: Unset, 82: Strict})},
		{mesh(Strict), selecting(Disable, map[uint16]Mode{80: Strict})},
	} {
		s := NewSet()
		s.Replace(Objects{RootNamespace: root, PeerAuthentications: policies})
		others, ports := s.RefusesPlaintext(web)
		for port := uint16(79); port < 84; port++ {
			refuses, own := ports[port]
			if !own {
				refuses = others
			}
			if want := !s.Mode(web, port).Plaintext(); refuses != want {
				t.Errorf("%v: port %d refuses plaintext: %v, want %v", policies, port, refuses, want)
			}
		}
	}
	s := NewSet()
	s.Replace(Objects{RootNamespace: root, AuthorizationPolicies: []AuthorizationPolicy{authz("shop", "deny", nil)}})
	if others, ports := s.RefusesPlaintext(web); !others || len(ports) > 0 {
		t.Errorf("a workload that refuses everybody lets plaintext in: %v, %v", others, ports)
	}
}
