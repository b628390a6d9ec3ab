// SPDX-License-Identifier: Apache-2.0

package source

import (
	"math/rand/v2"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// fuzzed are the fields that hold words, each with its Not twin.
var fuzzed = []func(values, notValues []string) *Rule{
	func(v, n []string) *Rule { return from(Peer{Principals: v, NotPrincipals: n}) },
	func(v, n []string) *Rule { return from(Peer{Namespaces: v, NotNamespaces: n}) },
	func(v, n []string) *Rule { return from(Peer{ServiceAccounts: v, NotServiceAccounts: n}) },
	func(v, n []string) *Rule { return from(Peer{TrustDomains: v, NotTrustDomains: n}) },
	func(v, n []string) *Rule { return from(Peer{IPBlocks: v, NotIPBlocks: n}) },
	func(v, n []string) *Rule { return &Rule{To: []*To{{&Operation{Ports: v, NotPorts: n}}}} },
	func(v, n []string) *Rule { return when("source.ip", v, n) },
	func(v, n []string) *Rule { return when("source.namespace", v, n) },
	func(v, n []string) *Rule { return when("source.principal", v, n) },
	func(v, n []string) *Rule { return when("destination.ip", v, n) },
	func(v, n []string) *Rule { return when("destination.port", v, n) },
}

func from(p Peer) *Rule { return &Rule{From: []*From{{&p}}} }

func when(key string, v, n []string) *Rule {
	return &Rule{When: []*Condition{{Key: key, Values: v, NotValues: n}}}
}

// FuzzAuthorizationPolicy puts any word into any field. A connection matches the word or
// does not, so that the field and its Not twin divide all of them, for ALLOW as for DENY.
// If the word means nothing, ALLOW lets nobody in, and DENY lets nobody in either.
func FuzzAuthorizationPolicy(f *testing.F) {
	for field := range fuzzed {
		for _, word := range []string{"*", "a*", "*a", "a.b", "cluster.local/ns/shop/sa/web", "*/sa/web", "WEB", "w%65b", "a\x00b", "a*b", "", "**",
			"0", "80", "08080", "65536", "http", "10.0.0.77/8", "::ffff:10.0.0.0/104", "::ffff:0:0/95", "0.0.0.0/0", "::/0", "fe80::1%eth0", "10.0.0.1"} {
			f.Add(uint8(field), word)
		}
	}
	d := dice{rand.New(rand.NewPCG(1, 1))}
	var requests []policy.Request
	for len(requests) < 30 { // a foreign peer is not let in by what does not match: it must be named
		if r := d.request(); r.Peer.IsZero() || r.Peer.TrustDomain() == guarded.ID.TrustDomain() {
			requests = append(requests, r)
		}
	}
	f.Fuzz(func(t *testing.T, field uint8, word string) {
		rule := fuzzed[int(field)%len(fuzzed)]
		set := func(action string, values, notValues []string) (*policy.Set, bool) {
			p := &AuthorizationPolicy{}
			p.Name, p.Namespace = "a", "shop"
			p.Spec.Action, p.Spec.Rules = action, []*Rule{rule(values, notValues)}
			return inForce([]*AuthorizationPolicy{p}), p.Check() != nil
		}
		words := []string{word}
		allowed, wrong := set("ALLOW", words, nil)
		allowedNot, wrongNot := set("ALLOW", nil, words)
		denied, _ := set("DENY", words, nil)
		deniedNot, _ := set("DENY", nil, words)
		if wrong != wrongNot {
			t.Fatalf("%q means nothing in one of a field and its twin", word)
		}
		for _, r := range requests {
			in := func(s *policy.Set) bool { return s.AllowInbound(r) == nil }
			got := [4]bool{in(allowed), in(allowedNot), in(denied), in(deniedNot)}
			match := got[0]
			want := [4]bool{match, !match, !match, match}
			if wrong {
				want = [4]bool{}
			}
			if got != want {
				t.Fatalf("field %d: %q, %+v: ALLOW, ALLOW not, DENY, DENY not let in: %v, want %v", int(field)%len(fuzzed), word, r, got, want)
			}
		}
	})
}
