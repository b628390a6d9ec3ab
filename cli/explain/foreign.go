// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"slices"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// foreign reports whether c comes from another trust domain than the pod's.
func foreign(c Connection) bool {
	return c.From != nil && !c.From.ID.IsZero() && c.From.ID.TrustDomain() != c.Dst.ID.TrustDomain()
}

// foreignRule asks a rule about a peer of another trust domain. One that allows must name
// that domain, and its namespace is none of ours. One that denies takes its namespace for ours
// where it names some, and for none where it excepts some.
func (q question) foreignRule(r policy.Rule, action policy.Action) (Truth, string) {
	q.notAccount = identity.ServiceAccount{}
	if action != policy.Allow {
		return q.rule(r)
	}
	q.account = identity.ServiceAccount{}
	bare, why := q.rule(r)
	named := q.named(r)
	if bare != No && named == No {
		return No, "it does not name the trust domain " + q.trustDomain
	}
	return min(bare, named), why
}

// named is whether a match holds that names the peer's trust domain.
func (q *question) named(r policy.Rule) (best Truth) {
	for _, c := range r {
		for i := range c {
			if t, _ := q.match(&c[i]); q.names(&c[i]) {
				best = max(best, t)
			}
		}
	}
	return best
}

func (q *question) names(m *policy.Match) bool {
	return slices.Contains(m.TrustDomains, policy.Pattern(q.trustDomain)) ||
		slices.ContainsFunc(m.Principals, func(p policy.Pattern) bool {
			td, only := p.Names()
			return only && td == q.trustDomain && p.Matches(q.principal)
		})
}
