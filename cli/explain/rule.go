// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// question is a Connection in the parts that rules name.
type question struct {
	known                  bool // who opens it
	principal, trustDomain string
	account                identity.ServiceAccount
	notAccount             identity.ServiceAccount // account, for the fields with "not": see foreignRule
	foreign                bool                    // of another trust domain than the pod
	src, dst               netip.Addr              // zero: not known
	port                   uint16                  // 0: not known
}

func newQuestion(c Connection) question {
	q := question{port: c.Port}
	if c.From != nil {
		q.known, q.src = true, plain(c.From.Addr)
		if id := c.From.ID; !id.IsZero() {
			q.principal, q.trustDomain = strings.TrimPrefix(id.String(), "spiffe://"), id.TrustDomain().Name()
			q.account, _ = identity.Parse(id) // of another ID there is none
			q.notAccount = q.account
			q.foreign = foreign(c)
		}
	}
	var reachable []netip.Addr // of the source's family
	for _, addr := range c.Dst.Addrs {
		if addr = plain(addr); !q.src.IsValid() || q.src.Is4() == addr.Is4() {
			reachable = append(reachable, addr)
		}
	}
	if len(reachable) == 1 {
		q.dst = reachable[0]
	}
	return q
}

// plain is an address as CIDRs are compared with it.
func plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// rules are what the rules of p say.
func (q *question) rules(p policy.AuthorizationPolicy) (all []Rule) {
	row := Rule{Policy: p.Namespace + "/" + p.Name, Action: p.Action, Idle: idle(p), Rule: -1}
	for i, r := range p.Rules {
		row.Rule = i
		if row.Matches, row.Why = q.rule(r); q.foreign {
			row.Matches, row.Why = q.foreignRule(r, p.Action)
		}
		row.Warnings = warnings(p, i)
		all = append(all, row)
	}
	switch {
	case p.Action == policy.Refuse:
		row.Rule, row.Matches, row.Why = -1, Yes, "not understood by this version"
		all = []Rule{row}
	case len(all) == 0:
		row.Why = "it has no rule, so that nothing matches"
		all = []Rule{row}
	}
	all[0].Warnings = append(all[0].Warnings, warnings(p, -1)...)
	return all
}

// warnings are those of a rule of p or, for -1, those of none.
func warnings(p policy.AuthorizationPolicy, rule int) (all []string) {
	for _, w := range p.Warnings {
		of := -1
		if rest, is := strings.CutPrefix(w, "spec.rules["); is {
			place, _, _ := strings.Cut(rest, "]")
			if n, err := strconv.Atoi(place); err == nil && n < len(p.Rules) {
				of = n
			}
		}
		if of == rule {
			all = append(all, w)
		}
	}
	return all
}

// rule asks all clauses. It says why by what decides: of a rule that does not match, the
// first clause that does not.
func (q *question) rule(r policy.Rule) (Truth, string) {
	if r.Never() {
		return No, "it holds what cannot be judged, and allows nothing"
	}
	all, open := []string{}, []string{}
	for _, c := range r {
		switch t, why := q.clause(c); t {
		case No:
			return No, why
		case Open:
			open = append(open, why)
		default:
			all = append(all, why)
		}
	}
	switch {
	case len(open) > 0:
		return Open, strings.Join(open, " and ")
	case len(all) == 0:
		return Yes, "it asks for nothing, and matches everything"
	}
	return Yes, strings.Join(all, " and ")
}

// clause asks all matches until one holds.
func (q *question) clause(c policy.Clause) (best Truth, why string) {
	var reasons []string
	for i := range c {
		t, why := q.match(&c[i])
		if t == Yes {
			return Yes, why
		}
		if t > best {
			best, reasons = t, nil
		}
		if t == best {
			reasons = append(reasons, why)
		}
	}
	if len(reasons) == 1 {
		return best, reasons[0]
	}
	return best, "(" + listed(reasons, " or ") + ")"
}

// match asks all fields. Of those that do not hold it names the first.
func (q *question) match(m *policy.Match) (Truth, string) {
	var all, open []string
	for _, f := range q.fields(m) {
		switch f.truth {
		case No:
			return No, fmt.Sprintf("%s: it %s", f, f.is)
		case Open:
			open = append(open, f.String())
		default:
			all = append(all, f.String())
		}
	}
	switch {
	case len(open) > 0:
		return Open, strings.Join(open, ", ")
	case len(all) == 0:
		return Yes, "what cannot be judged"
	}
	return Yes, strings.Join(all, ", ")
}

// field is one of a Match that is there, and what it says.
type field struct {
	name   string
	values []string
	truth  Truth
	is     string // what it was compared with, as "is 80"
}

func (f field) String() string { return f.name + " " + listed(f.values, ", ") }

// listed is the first few, and how many more there are.
func listed(all []string, between string) string {
	const most = 4
	if len(all) <= most {
		return strings.Join(all, between)
	}
	return fmt.Sprintf("%s%sand %d more", strings.Join(all[:most-1], between), between, len(all)-most+1)
}

// fields asks those of m, each of a list and its Not list.
func (q *question) fields(m *policy.Match) (all []field) {
	words := func(name string, is string) func(yes, not []policy.Pattern) {
		return func(yes, not []policy.Pattern) {
			all = append(all, ask(name, yes, not, q.known, is, func(p policy.Pattern) bool { return p.Matches(is) })...)
		}
	}
	words("principals", q.principal)(m.Principals, m.NotPrincipals)
	words("trustDomains", q.trustDomain)(m.TrustDomains, m.NotTrustDomains)
	words("namespaces", q.account.Namespace)(m.Namespaces, nil)
	words("namespaces", q.notAccount.Namespace)(nil, m.NotNamespaces)
	accounts := func(yes, not []identity.ServiceAccount, is identity.ServiceAccount) {
		text := ""
		if is != (identity.ServiceAccount{}) {
			text = is.String()
		}
		all = append(all, ask("serviceAccounts", yes, not, q.known, text, func(a identity.ServiceAccount) bool { return a == is })...)
	}
	accounts(m.ServiceAccounts, nil, q.account)
	accounts(nil, m.NotServiceAccounts, q.notAccount)
	within := func(addr netip.Addr) func(netip.Prefix) bool {
		return func(p netip.Prefix) bool { return p.Contains(addr) }
	}
	all = append(all, ask("ipBlocks", m.Sources, m.NotSources, q.src.IsValid(), q.src.String(), within(q.src))...)
	all = append(all, ask("destination.ip", m.Destinations, m.NotDestinations, q.dst.IsValid(), q.dst.String(), within(q.dst))...)
	port := strconv.Itoa(int(q.port))
	return append(all, ask("ports", m.Ports, m.NotPorts, q.port != 0, port, func(p uint16) bool { return p == q.port })...)
}

func ask[T any](name string, yes, not []T, known bool, is string, has func(T) bool) (all []field) {
	if is = "is " + is; is == "is " {
		is = "has none"
	}
	for _, list := range []struct {
		name   string
		values []T
		want   bool
	}{{name, yes, true}, {"not " + name, not, false}} {
		if len(list.values) == 0 {
			continue
		}
		f := field{name: list.name, truth: Open, is: is}
		if known {
			f.truth = truth(slices.ContainsFunc(list.values, has) == list.want)
		}
		for _, v := range list.values {
			f.values = append(f.values, fmt.Sprint(v))
		}
		all = append(all, f)
	}
	return all
}
