// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// compiled is an AuthorizationPolicy as it is asked. It is never written to.
type compiled struct {
	policy AuthorizationPolicy
	rules  []*rule
	names  set[string] // trust domains that its rules name in full
}

// rule is a Rule as it is asked.
type rule struct {
	clauses [][]match
	denied  *Denied // what its match means, unless it allows
}

// match is a Match as it is asked; nil is a field that is not there.
type match struct {
	principals, notPrincipals     *words
	trustDomains, notTrustDomains *words
	namespaces, notNamespaces     *words
	accounts, notAccounts         set[identity.ServiceAccount]
	sources, notSources           *ranges
	dsts, notDsts                 *ranges
	ports, notPorts               set[uint16]
}

type set[T comparable] map[T]struct{}

func (c *compiled) written() *AuthorizationPolicy { return &c.policy }

func compile(p AuthorizationPolicy) *compiled {
	c := &compiled{policy: p}
	if p.Action == Refuse {
		c.rules = []*rule{{denied: &Denied{Policy: p.String(), Reason: "not understood by this version"}}}
		return c
	}
	for i, r := range p.Rules {
		if r.Never() {
			continue
		}
		out := &rule{}
		if p.Action == Deny {
			out.denied = &Denied{Policy: p.String(), Reason: fmt.Sprintf("rule %d denies it", i)}
		}
		for _, clause := range r {
			var matches []match
			for _, m := range clause {
				matches = append(matches, m.compile())
			}
			out.clauses = append(out.clauses, matches)
		}
		c.rules = append(c.rules, out)
	}
	c.names = domainsNamed(p.Rules)
	return c
}

func (m Match) compile() match {
	return match{
		principals: newWords(m.Principals), notPrincipals: newWords(m.NotPrincipals),
		trustDomains: newWords(m.TrustDomains), notTrustDomains: newWords(m.NotTrustDomains),
		namespaces: newWords(m.Namespaces), notNamespaces: newWords(m.NotNamespaces),
		accounts: newSet(m.ServiceAccounts), notAccounts: newSet(m.NotServiceAccounts),
		sources: newRanges(m.Sources), notSources: newRanges(m.NotSources),
		dsts: newRanges(m.Destinations), notDsts: newRanges(m.NotDestinations),
		ports: newSet(m.Ports), notPorts: newSet(m.NotPorts),
	}
}

func newSet[T comparable](values []T) set[T] {
	if len(values) == 0 {
		return nil
	}
	s := make(set[T], len(values))
	for _, v := range values {
		s[v] = struct{}{}
	}
	return s
}

func (s set[T]) has(v T) bool { _, ok := s[v]; return ok }

// question is a Request in the parts that rules name.
type question struct {
	principal, trustDomain string
	account                identity.ServiceAccount // zero: the ID is not that of one
	notAccount             identity.ServiceAccount // account, for the fields with "not": see foreign.go
	src, dst               netip.Addr
	port                   uint16
	named                  bool // only rules match that name the peer's trust domain: see foreign.go
}

// ask allocates nothing: the parts are pieces of the ID's own string.
func ask(r *Request) question {
	q := question{src: plain(r.Src), dst: plain(r.Addr), port: r.Port}
	if r.Peer.IsZero() {
		return q
	}
	q.principal = strings.TrimPrefix(r.Peer.String(), "spiffe://")
	q.trustDomain = r.Peer.TrustDomain().Name()
	q.account = accountOf(r.Peer)
	q.notAccount = q.account
	return q
}

// accountOf is identity.Parse without its allocations: the path must be exactly
// /ns/NAMESPACE/sa/NAME.
func accountOf(id spiffeid.ID) identity.ServiceAccount {
	rest, ok := strings.CutPrefix(id.Path(), "/ns/")
	if !ok {
		return identity.ServiceAccount{}
	}
	namespace, rest, _ := strings.Cut(rest, "/")
	name, ok := strings.CutPrefix(rest, "sa/")
	if !ok || name == "" || strings.Contains(name, "/") {
		return identity.ServiceAccount{}
	}
	return identity.ServiceAccount{Namespace: namespace, Name: name}
}

// plain is an address as CIDRs are compared with it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

func (r *rule) matches(q *question) bool {
	if q.named && !r.names(q) {
		return false
	}
	for _, clause := range r.clauses {
		if !anyOf(clause, q) {
			return false
		}
	}
	return true
}

func anyOf(clause []match, q *question) bool {
	for i := range clause {
		if clause[i].matches(q) {
			return true
		}
	}
	return false
}

func (m *match) matches(q *question) bool {
	switch {
	case m.ports != nil && !m.ports.has(q.port), m.notPorts.has(q.port),
		m.principals != nil && !m.principals.has(q.principal), m.notPrincipals.has(q.principal),
		m.trustDomains != nil && !m.trustDomains.has(q.trustDomain), m.notTrustDomains.has(q.trustDomain),
		m.namespaces != nil && !m.namespaces.has(q.account.Namespace), m.notNamespaces.has(q.notAccount.Namespace),
		m.accounts != nil && !m.accounts.has(q.account), m.notAccounts.has(q.notAccount),
		m.sources != nil && !m.sources.has(q.src), m.notSources.has(q.src),
		m.dsts != nil && !m.dsts.has(q.dst), m.notDsts.has(q.dst):
		return false
	}
	return true
}
