// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func dual(name string, last byte) workload.Workload {
	return workload.Workload{UID: name, Namespace: "shop", Name: name, Meshed: true, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + name),
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, last}), netip.AddrFrom16([16]byte{0xfd, 15: last})}}
}

func fromBlock(action policy.Action, cidr string) policy.Objects {
	return policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "p"}, Action: action,
		Rules: []policy.Rule{{{{Sources: []netip.Prefix{netip.MustParsePrefix(cidr)}}}}}}}}
}

// A pod of both families may come by either. What hangs on that is open, and says so.
func TestASourceIsAskedByAllItsAddresses(t *testing.T) {
	web, db := dual("web", 1), dual("db", 2)
	only4 := db
	only4.Addrs = db.Addrs[:1]
	for _, row := range []struct {
		what     string
		dst      workload.Workload
		policies policy.Objects
		want     Truth
		says     string
	}{
		{"one family is let in", db, fromBlock(policy.Allow, "10.0.0.0/24"), Open, "from 10.0.0.1 it is allowed (rule 0 of AuthorizationPolicy shop/p allows it), from fd00::1 it is refused"},
		{"one family is refused", db, fromBlock(policy.Deny, "fd00::/64"), Open, "from fd00::1 it is refused (AuthorizationPolicy shop/p: rule 0 denies it)"},
		{"the other is not that of the destination", only4, fromBlock(policy.Deny, "fd00::/64"), Yes, "no policy refuses it"},
		{"both are refused", db, fromBlock(policy.Allow, "192.0.2.0/24"), No, "no rule allows it"},
	} {
		a := ExplainFrom(row.policies, &Network{}, Connection{Dst: row.dst, Port: 80}, Sources(&web, &row.dst))
		if a.Allowed != row.want || !strings.Contains(a.Why, row.says) {
			t.Errorf("%s: %v: %s", row.what, a.Allowed, a.Why)
		}
		if row.want == Open && a.Rules[0].Matches != Open {
			t.Errorf("%s: the rule %v", row.what, a.Rules[0])
		}
	}
	block := networkpolicy.Policy{Namespace: "shop", Name: "n", Ingress: networkpolicy.Side{Isolates: true,
		Rules: []networkpolicy.Rule{{Peers: []networkpolicy.Peer{{Block: &networkpolicy.Block{CIDR: netip.MustParsePrefix("10.0.0.0/24")}}}}}}}
	n := &Network{Policies: []networkpolicy.Policy{block}, Modes: map[string]networkpolicy.Mode{"shop": networkpolicy.Enforce}}
	a := ExplainFrom(policy.Objects{}, n, Connection{Dst: db, Port: 80}, Sources(&web, &db))
	if a.Allowed != Open || a.Network[0].Admits != Open {
		t.Errorf("a NetworkPolicy that admits one family: %v: %s", a.Allowed, a.Why)
	}
}

// Nodes go on in the mode that a namespace had before its label meant nothing.
func TestAModeThatMeansNothingLeavesTheVerdictOpen(t *testing.T) {
	web, db := dual("web", 1), dual("db", 2)
	for _, admits := range []bool{false, true} {
		p := networkpolicy.Policy{Namespace: "shop", Name: "n", Ingress: networkpolicy.Side{Isolates: true}}
		if admits {
			p.Ingress.Rules = []networkpolicy.Rule{{}}
		}
		n := &Network{Policies: []networkpolicy.Policy{p}, Modes: map[string]networkpolicy.Mode{"shop": networkpolicy.Warn}, Strange: map[string]string{"shop": "enforced"}}
		a := ExplainFrom(policy.Objects{}, n, Connection{Dst: db, Port: 80}, Sources(&web, &db))
		if want := (map[bool]Truth{false: Open, true: Yes})[admits]; a.Allowed != want || !admits && !strings.Contains(a.Why, `whose mode "enforced" means nothing`) {
			t.Errorf("admitted: %v: %v: %s", admits, a.Allowed, a.Why)
		}
	}
}
