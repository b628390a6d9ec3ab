// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var db = workload.Workload{
	UID: "u1", Namespace: "shop", Name: "db-1", Meshed: true, ID: spiffeid.RequireFromString("spiffe://prod/ns/shop/sa/db"), Addrs: []netip.Addr{netip.MustParseAddr("10.0.1.1")},
	Labels: workload.NewLabels(map[string]string{"app": "db"}),
}

// die makes what is asked of policies, of few words, so that they often match.
type die struct{ *rand.Rand }

func (d die) one(n int) bool { return d.IntN(n) == 0 }

func some[T any](d die, rare int, of ...T) (out []T) {
	if d.one(rare) {
		for range 1 + d.IntN(2) {
			out = append(out, of[d.IntN(len(of))])
		}
	}
	return out
}

func (d die) match() policy.Match {
	words := func(of ...policy.Pattern) []policy.Pattern { return some(d, 5, of...) }
	accounts := []identity.ServiceAccount{{Namespace: "shop", Name: "web"}, {Namespace: "bank", Name: "pay"}}
	nets := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/24"), netip.MustParsePrefix("10.0.0.7/32"), netip.MustParsePrefix("fd00::/8")}
	dsts := []netip.Prefix{netip.MustParsePrefix("10.0.1.1/32"), netip.MustParsePrefix("10.9.0.0/16")}
	return policy.Match{
		Principals: words("prod/ns/shop/sa/web", "*/sa/pay", "*"), NotPrincipals: words("prod/*", "*"),
		TrustDomains: words("prod", "test"), NotTrustDomains: words("t*"),
		Namespaces: words("shop", "b*"), NotNamespaces: words("bank", "*"),
		ServiceAccounts: some(d, 7, accounts...), NotServiceAccounts: some(d, 7, accounts...),
		Sources: some(d, 7, nets...), NotSources: some(d, 7, nets...),
		Destinations: some(d, 9, dsts...), NotDestinations: some(d, 9, dsts...),
		Ports: some(d, 4, uint16(80), 443), NotPorts: some(d, 7, uint16(80), 443),
	}
}

func (d die) policy(i int) policy.AuthorizationPolicy {
	p := policy.AuthorizationPolicy{Action: policy.Action(d.IntN(5)), DryRun: d.one(6), TargetRefs: d.one(9)}
	if p.Action == policy.Refuse && !d.one(8) {
		p.Action = policy.Allow
	}
	p.Object = policy.Object{Namespace: some(d, 1, "shop", "istio-system", "bank")[0], Name: fmt.Sprint("p", i), Created: time.Unix(int64(d.IntN(3)), 0)}
	if d.one(3) {
		p.Selector = policy.Selector{"app": some(d, 1, "db", "web")[0]}
	}
	for range d.IntN(3) {
		var r policy.Rule
		for range d.IntN(3) {
			var c policy.Clause
			for range d.IntN(3) { // with none it is Never
				c = append(c, d.match())
			}
			r = append(r, c)
		}
		p.Rules = append(p.Rules, r)
	}
	return p
}

func (d die) objects() policy.Objects {
	o := policy.Objects{RootNamespace: "istio-system"}
	for i := range d.IntN(5) {
		o.AuthorizationPolicies = append(o.AuthorizationPolicies, d.policy(i))
	}
	for i := range d.IntN(3) {
		p := policy.PeerAuthentication{Mode: policy.Mode(d.IntN(4))}
		p.Object = policy.Object{Namespace: some(d, 1, "shop", "istio-system")[0], Name: fmt.Sprint("p", i)}
		if p.Namespace == "shop" && d.one(2) {
			p.Selector, p.Ports = policy.Selector{"app": "db"}, map[uint16]policy.Mode{80: policy.Mode(d.IntN(4))}
		}
		o.PeerAuthentications = append(o.PeerAuthentications, p)
	}
	return o
}

func (d die) source() *Source {
	s := &Source{Addr: netip.MustParseAddr(some(d, 1, "10.0.0.7", "10.0.0.8", "10.5.0.1")[0])}
	if text := some(d, 1, "", "spiffe://prod/ns/shop/sa/web", "spiffe://prod/ns/bank/sa/pay", "spiffe://test/ns/shop/sa/web", "spiffe://test/vm")[0]; text != "" {
		s.ID = spiffeid.RequireFromString(text)
	}
	return s
}

// What is explained is what ztunnel does, as far as the connection is known. Of one that
// is known in parts, no verdict is another than that of any connection that it may be.
func TestTheVerdictIsThatOfTheSet(t *testing.T) {
	seen := map[Truth]int{}
	for seed := range uint64(1000) {
		d := die{rand.New(rand.NewPCG(seed, 0))}
		objects := d.objects()
		set := policy.NewSet()
		set.Replace(objects)
		for range 8 {
			c := Connection{Dst: db, Port: uint16(some(d, 1, 80, 443, 9000)[0]), From: d.source()}
			err := set.AllowInbound(policy.Request{Src: c.From.Addr, Peer: c.From.ID, Dst: db, Addr: db.Addrs[0], Port: c.Port})
			full := Explain(objects, c)
			if full.Allowed != truth(err == nil) {
				t.Fatalf("seed %d: %+v: explained as %+v; the set says %v", seed, c, full, err)
			}
			var denied *policy.Denied
			if errors.As(err, &denied) && full.By != denied.Policy && !slices.ContainsFunc(full.Rules, func(r Rule) bool {
				return r.Idle == "" && r.Matches == Yes && "AuthorizationPolicy "+r.Policy == denied.Policy
			}) {
				t.Fatalf("seed %d: refused by %q (%s); the set says %v", seed, full.By, full.Why, err)
			}
			for _, hide := range []func(*Connection){
				func(c *Connection) { c.Port = 0 },
				func(c *Connection) { c.From = nil },
				func(c *Connection) { c.From = &Source{ID: c.From.ID} },
				func(c *Connection) { c.Port, c.From = 0, nil },
				func(c *Connection) {
					c.Dst.Addrs = append([]netip.Addr{netip.MustParseAddr("10.0.1.2")}, c.Dst.Addrs...)
				},
			} {
				part := c
				if hide(&part); part.From == nil && foreign(c) {
					continue // whoever is not known is taken for one of this trust domain
				}
				a := Explain(objects, part)
				seen[a.Allowed]++
				if a.Allowed != Open && a.Allowed != full.Allowed {
					t.Fatalf("seed %d: of %+v it is %v (%s), of %+v %v (%s)", seed, part, a.Allowed, a.Why, c, full.Allowed, full.Why)
				}
			}
		}
	}
	if seen[No] < 300 || seen[Open] < 300 || seen[Yes] < 300 {
		t.Errorf("of partly known connections %d are refused, %d open, %d allowed: too few of one", seen[No], seen[Open], seen[Yes])
	}
}

func TestAPodOutsideTheMeshIsNotProtected(t *testing.T) {
	out := db
	out.Meshed = false
	o := policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "none"}, Action: policy.Allow}}}
	if a := Explain(o, Connection{Dst: out, Port: 80, From: &Source{}}); a.Allowed != Yes || !strings.Contains(a.Why, "not in the mesh") {
		t.Errorf("%v: %s", a.Allowed, a.Why)
	}
	if a := Explain(o, Connection{Dst: db, Port: 80, From: &Source{}}); a.Allowed != No || a.Why != "no rule allows it" {
		t.Errorf("the same pod in the mesh: %v: %s", a.Allowed, a.Why)
	}
}

func TestWarningsStandAtTheirRule(t *testing.T) {
	p := policy.AuthorizationPolicy{Object: policy.Object{Namespace: "shop", Name: "a"}, Action: policy.Deny, Rules: []policy.Rule{{}, {}},
		Warnings: []string{"spec.rules[1].to[0].operation.methods: is about requests", "spec.rules[9].x: of a rule that is not there", "and 3 more"}}
	rules := Explain(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{p}}, Connection{Dst: db}).Rules
	if !slices.Equal(rules[1].Warnings, p.Warnings[:1]) || !slices.Equal(rules[0].Warnings, p.Warnings[1:]) {
		t.Errorf("rule 0 has %q, rule 1 %q", rules[0].Warnings, rules[1].Warnings)
	}
}
