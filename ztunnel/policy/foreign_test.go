// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// A peer of another trust domain is let in by a rule that names its domain, and by nothing
// else; what denies denies it by either reading of its namespace.
func TestAForeignPeerIsLetInOnlyByAPolicyThatNamesItsDomain(t *testing.T) {
	foreign := spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/client")
	named := Match{Principals: []Pattern{"other.example/ns/shop/sa/client"}}
	for _, row := range []struct {
		name string
		with []AuthorizationPolicy
		lets bool
		says string
	}{
		{"no policy", nil, false, "the peer is of the trust domain other.example, and no AuthorizationPolicy names it"},
		{"rules: [{}]", allow(Match{}), false, "no rule allows it"},
		{"principals *", allow(Match{Principals: []Pattern{"*"}}), false, ""},
		{"principals by their end", allow(Match{Principals: []Pattern{"*/sa/client"}}), false, ""},
		{"the beginning of a domain", allow(Match{Principals: []Pattern{"other.*"}}), false, ""},
		{"a domain without its slash", allow(Match{Principals: []Pattern{"other.example*"}}), false, ""},
		{"the same namespace", allow(Match{Namespaces: []Pattern{"shop"}}), false, ""},
		{"the same ServiceAccount", allow(Match{ServiceAccounts: []identity.ServiceAccount{{Namespace: "shop", Name: "client"}}}), false, ""},
		{"not another principal", allow(Match{NotPrincipals: []Pattern{"cluster.local/*"}}), false, ""},
		{"not another namespace", allow(Match{NotNamespaces: []Pattern{"bank"}}), false, ""},
		{"any trust domain", allow(Match{TrustDomains: []Pattern{"*"}}), false, ""},
		{"trust domains by their end", allow(Match{TrustDomains: []Pattern{"*.example"}}), false, ""},
		{"not our trust domain", allow(Match{NotTrustDomains: []Pattern{"cluster.local"}}), false, ""},
		{"a port", allow(Match{Ports: []uint16{80}}), false, ""},
		{"a third trust domain", allow(Match{TrustDomains: []Pattern{"third.example"}}), false, ""},
		{"another principal of the domain", allow(Match{Principals: []Pattern{"other.example/ns/shop/sa/web"}}), false, ""},
		{"a namespace beside the domain", allow(Match{TrustDomains: []Pattern{"other.example"}, Namespaces: []Pattern{"shop"}}), false, ""},

		{"its principal", allow(named), true, ""},
		{"its namespace, by the beginning of a principal", allow(Match{Principals: []Pattern{"other.example/ns/shop/*"}}), true, ""},
		{"all of its domain", allow(Match{Principals: []Pattern{"other.example/*"}}), true, ""},
		{"its trust domain", allow(Match{TrustDomains: []Pattern{"other.example"}}), true, ""},
		{"its trust domain among others", allow(Match{TrustDomains: []Pattern{"cluster.local", "other.example"}}), true, ""},
		{"its trust domain, and principals by their end", allow(Match{TrustDomains: []Pattern{"other.example"}, Principals: []Pattern{"*/sa/client"}}), true, ""},
		{"another port", allow(Match{TrustDomains: []Pattern{"other.example"}, Ports: []uint16{443}}), false, ""},

		{"denied by its namespace", append(allow(named), deny(Match{Namespaces: []Pattern{"shop"}})...), false, "rule 0 denies it"},
		{"denied as none of a namespace", append(allow(named), deny(Match{NotNamespaces: []Pattern{"shop"}})...), false, "rule 0 denies it"},
		{"denied as none of our trust domain", append(allow(named), deny(Match{NotTrustDomains: []Pattern{"cluster.local"}})...), false, "rule 0 denies it"},
		{"denied but for an account of ours", append(allow(named), deny(Match{Namespaces: []Pattern{"shop"}, NotServiceAccounts: []identity.ServiceAccount{{Namespace: "shop", Name: "client"}}})...), false, "rule 0 denies it"},
		{"denied by its account, but for a namespace of ours", append(allow(named), deny(Match{ServiceAccounts: []identity.ServiceAccount{{Namespace: "shop", Name: "client"}}, NotNamespaces: []Pattern{"sh*"}})...), false, "rule 0 denies it"},
		{"others denied", append(allow(named), deny(Match{Namespaces: []Pattern{"bank"}})...), true, ""},
		{"not understood", append(allow(named), AuthorizationPolicy{Object: Object{Namespace: "shop", Name: "odd"}}), false, "not understood"},
	} {
		s := NewSet()
		s.Replace(Objects{RootNamespace: "istio-system", AuthorizationPolicies: row.with})
		err := s.AllowInbound(Request{Peer: foreign, Dst: web, Port: 80})
		if (err == nil) != row.lets || err != nil && !strings.Contains(err.Error(), row.says) {
			t.Errorf("%s: %v, want it let in: %v %s", row.name, err, row.lets, row.says)
		}
		if err == nil && !s.Concern(web).MayLetIn(foreign.TrustDomain()) {
			t.Errorf("%s: it is let in, and MayLetIn says that none of its domain may be", row.name)
		}
	}
}

// What MayLetIn rules out costs a domain its places, so it is asked about each workload by itself.
func TestADomainMayBeLetInWhereAnAllowRuleNamesIt(t *testing.T) {
	other := spiffeid.RequireTrustDomainFromString("other.example")
	for _, row := range []struct {
		name string
		with []AuthorizationPolicy
		may  bool
	}{
		{"no policy", nil, false},
		{"rules: [{}]", allow(Match{}), false},
		{"every principal", allow(Match{Principals: []Pattern{"*"}}), false},
		{"a third domain", allow(Match{Principals: []Pattern{"third.example/*"}}), false},
		{"a domain that begins alike", allow(Match{Principals: []Pattern{"other.example.org/*", "other.example*"}}), false},
		{"denied by name", deny(Match{TrustDomains: []Pattern{"other.example"}}), false},
		{"an account of it", allow(Match{Principals: []Pattern{"other.example/ns/a/sa/b"}}), true},
		{"beside others", allow(Match{Namespaces: []Pattern{"shop"}}, Match{TrustDomains: []Pattern{"other.example"}}), true},
	} {
		s := NewSet()
		s.Replace(Objects{AuthorizationPolicies: row.with})
		if may := s.Concern(web).MayLetIn(other); may != row.may {
			t.Errorf("%s: MayLetIn says %v, want %v", row.name, may, row.may)
		}
		elsewhere := web
		elsewhere.Namespace = "bank"
		if s.Concern(elsewhere).MayLetIn(other) {
			t.Errorf("%s: the policy counts in another namespace", row.name)
		}
	}
}

// Our own peers are judged as ever, also by a policy that names another domain.
func TestAForeignDomainInAPolicyChangesNothingForOurPeers(t *testing.T) {
	s := NewSet()
	s.Replace(Objects{AuthorizationPolicies: allow(Match{Principals: []Pattern{"other.example/*"}}, Match{Namespaces: []Pattern{"shop"}})})
	if err := s.AllowInbound(Request{Peer: client, Dst: web, Port: 80}); err != nil {
		t.Error(err)
	}
	nobody := web
	nobody.ID = spiffeid.ID{} // then every peer is foreign
	if err := s.AllowInbound(Request{Peer: client, Dst: nobody, Port: 80}); err == nil {
		t.Error("a workload without an identity let in a peer that no policy names")
	}
}

// A dry run says of a foreign peer what would become of it.
func TestADryRunSaysWhatItWouldDoToAForeignPeer(t *testing.T) {
	r := Request{Peer: spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/client"), Dst: web, Port: 80}
	named := Match{TrustDomains: []Pattern{"other.example"}}
	for _, row := range []struct {
		enforced, dry []AuthorizationPolicy
		want          string
	}{
		{nil, allow(named), "would allow"},
		{nil, allow(Match{}), "would deny"},
		{allow(Match{}), allow(named), "would allow"},
		{allow(named), deny(Match{Namespaces: []Pattern{"shop"}}), "would deny"},
		{allow(named), deny(Match{Namespaces: []Pattern{"bank"}}), "would allow"},
		{deny(named), allow(named), "would deny"},
	} {
		dry := row.dry[0]
		dry.Name, dry.DryRun = "dry", true
		s := NewSet()
		s.Replace(Objects{AuthorizationPolicies: append([]AuthorizationPolicy{dry}, row.enforced...)})
		c := s.Concern(web)
		if got := c.DryRun(&r, c.AllowInbound(&r)); !strings.HasSuffix(got, row.want) {
			t.Errorf("%+v: %q, want %s", row, got, row.want)
		}
	}
}

func allow(matches ...Match) []AuthorizationPolicy { return authorization(Allow, "allow", matches) }
func deny(matches ...Match) []AuthorizationPolicy  { return authorization(Deny, "deny", matches) }

// authorization is a policy of web's namespace with one rule, of one clause.
func authorization(action Action, name string, matches []Match) []AuthorizationPolicy {
	var rule Rule
	if len(matches) > 1 || !matches[0].Empty() {
		rule = Rule{matches}
	}
	return []AuthorizationPolicy{{Object: Object{Namespace: "shop", Name: name}, Action: action, Rules: []Rule{rule}}}
}
