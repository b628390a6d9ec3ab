// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// A foreign peer has proved an identity of another trust domain, one that this mesh
// federates with. Whoever wrote a policy before there was a federation meant nobody of it,
// and whoever writes "namespaces: [web]" means the namespace of this cluster. So:
//
//   - An ALLOW rule lets a foreign peer in only if a principal or a trust domain that matches
//     names the foreign domain in full. No namespace and no ServiceAccount is a foreign one.
//   - Without such a rule the peer is refused, also where no policy concerns the workload.
//   - A DENY rule compares its namespace and ServiceAccount as those of this domain where it
//     names some, and where it excepts some the peer is none of them: whatever was meant, it
//     refuses.

// foreign reports whether the peer is of another trust domain than the workload. A workload
// without an identity has none in common with anybody.
func (r *Request) foreign() bool {
	return !r.Peer.IsZero() && r.Peer.TrustDomain() != r.Dst.ID.TrustDomain()
}

// allowForeign is AllowInbound of a foreign peer.
func (c *Concern) allowForeign(r *Request) error {
	q := ask(r)
	if rule := findForeign(c.deny, q); rule != nil {
		return rule.denied
	}
	if c.allow.find(askForeign(q)) != nil {
		return nil
	}
	return c.notNamed(r)
}

// wouldRefuseForeign is wouldRefuse of a foreign peer.
func (c *Concern) wouldRefuseForeign(d *dryRun, q question) bool {
	if findForeign(c.deny, q) != nil || d.policy.Action != Allow && findForeign(d.rules, q) != nil {
		return true
	}
	named := askForeign(q)
	return c.allow.find(named) == nil && (d.policy.Action != Allow || d.rules.find(named) == nil)
}

// findForeign returns a rule that refuses a foreign peer. No field matches more of such a peer:
// one that names matches no peer without an account, and one with "not" matches every such.
func findForeign(x *index, q question) *rule {
	q.notAccount = identity.ServiceAccount{}
	return x.find(&q)
}

// askForeign is what ALLOW rules are asked about a foreign peer.
func askForeign(q question) *question {
	q.account, q.notAccount, q.named = identity.ServiceAccount{}, identity.ServiceAccount{}, true
	return &q
}

// notNamed is why a foreign peer is refused that nothing denies.
func (c *Concern) notNamed(r *Request) *Denied {
	if c.notAllowed != nil {
		return c.notAllowed
	}
	return &Denied{Reason: "the peer is of the trust domain " + r.Peer.TrustDomain().Name() +
		", and no AuthorizationPolicy names it"}
}

// names reports whether a match that holds names the peer's trust domain.
func (r *rule) names(q *question) bool {
	for _, clause := range r.clauses {
		for i := range clause {
			if m := &clause[i]; m.names(q) && m.matches(q) {
				return true
			}
		}
	}
	return false
}

func (m *match) names(q *question) bool {
	return m.trustDomains.exactly(q.trustDomain) || m.principals.within(q.trustDomain+"/", q.principal)
}

// MayLetIn reports whether an ALLOW rule could let in a peer of another trust domain. If not,
// all that such a peer asks for is refused.
func (c *Concern) MayLetIn(trustDomain spiffeid.TrustDomain) bool {
	return slices.ContainsFunc(c.policies, func(p *compiled) bool {
		return p.policy.Action == Allow && p.names.has(trustDomain.Name())
	})
}

// domainsNamed are the trust domains of which the rules name somebody; nil: none.
func domainsNamed(rules []Rule) (domains set[string]) {
	for _, r := range rules {
		for _, clause := range r {
			for i := range clause {
				for _, domain := range clause[i].domains() {
					if domains == nil {
						domains = set[string]{}
					}
					domains[domain] = struct{}{}
				}
			}
		}
	}
	return domains
}

// domains are the trust domains that m names; see match.names.
func (m *Match) domains() (domains []string) {
	for _, p := range m.TrustDomains {
		if kind, domain := p.parse(); kind == exact {
			domains = append(domains, domain)
		}
	}
	for _, p := range m.Principals {
		if domain, ok := p.Names(); ok {
			domains = append(domains, domain)
		}
	}
	return domains
}

// Names reports whether the pattern of a principal stands for identities of one trust domain
// alone, and which: "other.example/ns/a/sa/b" and "other.example/*" do, "*/sa/b" and "other*"
// do not.
func (p Pattern) Names() (trustDomain string, ok bool) {
	kind, value := p.parse()
	if kind != exact && kind != prefix {
		return "", false
	}
	trustDomain, _, ok = strings.Cut(value, "/")
	return trustDomain, ok
}
