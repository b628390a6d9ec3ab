// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
)

// dice makes rules and requests of few words, many of which begin or end alike.
type dice struct{ *rand.Rand }

func one[T any](d dice, values ...T) T { return values[d.IntN(len(values))] }

func (d dice) word() string {
	word := make([]byte, 1+d.IntN(4))
	for i := range word {
		word[i] = "ab"[d.IntN(2)]
	}
	return string(word)
}

func (d dice) id() spiffeid.ID {
	if d.IntN(6) == 0 {
		return spiffeid.ID{}
	}
	path := one(d, "/ns/"+d.word()+"/sa/"+d.word(), "/"+d.word())
	return spiffeid.RequireFromString("spiffe://" + d.word() + path)
}

func (d dice) addr() netip.Addr {
	switch d.IntN(8) {
	case 0:
		return netip.Addr{}
	case 1, 2:
		return netip.AddrFrom16([16]byte{0: 0xfd, 14: byte(d.IntN(2)), 15: byte(d.IntN(256))})
	default:
		return netip.AddrFrom4([4]byte{10, byte(d.IntN(2)), byte(d.IntN(2)), byte(d.IntN(256))})
	}
}

func (d dice) cidr() netip.Prefix {
	a := d.addr()
	if !a.IsValid() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(a, d.IntN(a.BitLen()+1))
}

// pattern stands for some of the words that word returns.
func (d dice) pattern(word func() string) Pattern {
	w := word()
	n := d.IntN(len(w) + 1)
	return one(d, Pattern(w), Pattern(w), Pattern(w[:n]+"*"), Pattern("*"+w[n:]))
}

func some[T any](d dice, odds int, value func() T) (values []T) {
	for d.IntN(10) < odds {
		values = append(values, value())
	}
	return values
}

func (d dice) match() Match {
	pattern := func() Pattern { return d.pattern(d.word) }
	principal := func() Pattern {
		return d.pattern(func() string { return d.word() + "/ns/" + d.word() + "/sa/" + d.word() })
	}
	account := func() identity.ServiceAccount { return identity.ServiceAccount{Namespace: d.word(), Name: d.word()} }
	port := func() uint16 { return uint16(d.IntN(12)) }
	return Match{
		Principals: some(d, 3, principal), NotPrincipals: some(d, 1, principal),
		TrustDomains: some(d, 2, pattern), NotTrustDomains: some(d, 1, pattern),
		Namespaces: some(d, 3, pattern), NotNamespaces: some(d, 1, pattern),
		ServiceAccounts: some(d, 2, account), NotServiceAccounts: some(d, 1, account),
		Sources: some(d, 2, d.cidr), NotSources: some(d, 1, d.cidr),
		Destinations: some(d, 1, d.cidr), NotDestinations: some(d, 1, d.cidr),
		Ports: some(d, 4, port), NotPorts: some(d, 1, port),
	}
}

// The index is a way to ask fewer rules, and nothing else.
func TestTheIndexAgreesWithAllRulesAskedOneByOne(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(7, 8))}
	found, none := 0, 0
	for range 1000 {
		var rules []Rule
		for range d.IntN(12) {
			var r Rule
			for range 1 + d.IntN(3) {
				r = append(r, slices.Concat(Clause{d.match()}, some(d, 4, d.match)))
			}
			rules = append(rules, r)
		}
		all := compile(acting(Deny, "shop", "d", rules...)).rules
		x := newIndex(all)
		for range 20 {
			q := ask(&Request{Peer: d.id(), Src: d.addr(), Addr: d.addr(), Port: uint16(d.IntN(12))})
			matches := func(r *rule) bool { return r.matches(&q) }
			switch r := x.find(&q); {
			case r != nil && !matches(r):
				t.Fatalf("%+v: the index finds a rule that does not match in %+v", q, rules)
			case r == nil && slices.ContainsFunc(all, matches):
				t.Fatalf("%+v: the index finds no rule, and one matches of %+v", q, rules)
			case r == nil:
				none++
			default:
				found++
			}
		}
	}
	if found < 2500 || none < 2500 {
		t.Errorf("%d found, %d not: the dice are loaded", found, none)
	}
}

// The words of a field are found as its patterns say, however they lie in each other.
func TestRandomWordsAgreeWithTheirPatterns(t *testing.T) {
	d := dice{rand.New(rand.NewPCG(9, 10))}
	for range 20000 {
		patterns := some(d, 8, func() Pattern { return d.pattern(d.word) })
		w, s := newWords(patterns), d.word()
		if want := slices.ContainsFunc(patterns, func(p Pattern) bool { return p.Matches(s) }); w.has(s) != want {
			t.Fatalf("%q of %q: %v", s, patterns, !want)
		}
	}
}

// A hundred rules of one namespace that differ in their addresses, and the other way
// round: what few rules name is looked for.
func TestTheIndexGoesByWhatFewRulesName(t *testing.T) {
	var rules []Rule
	for i := range 100 {
		block := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 1, byte(i), 0}), 24)
		rules = append(rules, Rule{{{Namespaces: []Pattern{"shop"}, Sources: []netip.Prefix{block}}}}, Rule{
			{{Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}}, {{Principals: []Pattern{byPrincipal(i)[0][0].Principals[0]}}},
		})
	}
	x := newIndex(compile(acting(Deny, "shop", "d", rules...)).rules)
	if n := len(x.sources.extents); n != 100 || len(x.principals.exact) != 100 || len(x.namespaces.exact) != 0 {
		t.Errorf("%d by address, %d by principal, %d by namespace", n, len(x.principals.exact), len(x.namespaces.exact))
	}
}
