// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// authorization says whom an AuthorizationPolicy is for, and whom its rules match.
func (s *scene) authorization(a *authorization) {
	p := a.policy
	s.namespace(a.Object, p.Namespace, "metadata.namespace")
	if p.TargetRefs {
		return
	}
	root := p.Namespace == s.RootNamespace
	pods := s.selected(p.Object, root)
	s.reach(a.Object, p.Object, pods, root)
	if root {
		s.everywhere(a)
	}
	if p.DryRun {
		s.say(a.Object, dryRun, "metadata.annotations["+source.DryRun+"]", "nobody enforces it")
	}
	if s.Upgrade {
		s.upgrade(a, pods)
	}
	if p.Action != policy.Allow && p.Action != policy.Deny {
		return
	}
	s.outcome(a, pods)
	for i, r := range a.object.Spec.Rules {
		if r != nil {
			s.values(a, fmt.Sprintf("spec.rules[%d]", i), r, pods)
		}
	}
}

// everywhere says that a policy of the root namespace is for all of them.
func (s *scene) everywhere(a *authorization) {
	f := Finding{Code: meshWide, Object: named(a.Object), Place: a.Place, Field: "metadata.namespace"}
	switch of := "the pods of all namespaces"; {
	case len(a.policy.Selector) > 0:
		f.Text = fmt.Sprintf("%s is the root namespace: its selector is for %s", a.policy.Namespace, of)
	case a.policy.Action == policy.Allow:
		f.Severity = Warning
		f.Text = fmt.Sprintf("%s is the root namespace: %s refuse everybody whom no ALLOW policy lets in", a.policy.Namespace, of)
	default:
		f.Text = fmt.Sprintf("%s is the root namespace: it is for %s", a.policy.Namespace, of)
	}
	s.tell(f)
}

// outcome says of the rules whether they match anybody, and whom besides those who were
// meant.
func (s *scene) outcome(a *authorization, pods []*workload.Packed) {
	rules, allows := a.object.Spec.Rules, a.policy.Action == policy.Allow
	switch {
	case len(rules) == 0 && allows:
		s.say(a.Object, closed, "spec.rules", "no rule: it lets nobody in; whoever no other ALLOW policy lets in is refused")
		return
	case len(rules) == 0:
		s.say(a.Object, deniesNobody, "spec.rules", "no rule: DENY refuses nobody")
		return
	}
	matching := 0
	for i, rule := range a.policy.Rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		switch {
		case rule.Never():
			continue
		case never(rule):
			s.say(a.Object, neverMatches, path, "matches nobody")
			continue
		case !allows && always(rule):
			s.say(a.Object, deniesEverybody, path, "refuses everybody")
		case allows && plaintext(rule) && s.takesPlaintext(a, rule, pods):
			s.say(a.Object, letsPlaintextIn, path+".from", "a peer without an identity is none of those, so that plaintext is let in")
		}
		matching++
	}
	if matching == 0 && allows {
		s.say(a.Object, allowsNobody, "spec.rules", "no rule can let anybody in; whoever no other ALLOW policy lets in is refused")
	}
}

// always reports whether a rule matches everything.
func always(rule policy.Rule) bool {
	return !slices.ContainsFunc(rule, func(c policy.Clause) bool {
		return !slices.ContainsFunc(c, func(m policy.Match) bool { return m.Empty() })
	})
}

// plaintext reports whether a rule names peers by what they are not, and by nothing that
// only an identity has.
func plaintext(rule policy.Rule) bool {
	negative := false
	for _, clause := range rule {
		open := false
		for _, m := range clause {
			if len(m.Principals)+len(m.TrustDomains)+len(m.Namespaces)+len(m.ServiceAccounts) == 0 {
				open = true
				negative = negative || len(m.NotPrincipals)+len(m.NotTrustDomains)+len(m.NotNamespaces)+len(m.NotServiceAccounts) > 0
			}
		}
		if !open {
			return false
		}
	}
	return negative
}

// takesPlaintext reports whether a policy's pods take plaintext at a port that a rule is
// for. Port 0 is any that no object names.
func (s *scene) takesPlaintext(a *authorization, rule policy.Rule, pods []*workload.Packed) bool {
	of := []workload.Workload{{Namespace: a.policy.Namespace, Labels: workload.NewLabels(a.policy.Selector)}}
	if len(pods) > 0 {
		of = nil
	}
	for _, pod := range pods {
		of = append(of, pod.Workload())
	}
	ports := []uint16{0}
	for _, p := range s.peers {
		ports = slices.AppendSeq(ports, maps.Keys(p.policy.Ports))
	}
	for _, clause := range rule {
		for _, m := range clause {
			ports = append(ports, m.Ports...)
		}
	}
	slices.Sort(ports)
	for _, port := range slices.Compact(ports) {
		plain := func(w workload.Workload) bool { return s.set.Mode(w, port).Plaintext() }
		if isFor(rule, port) && slices.ContainsFunc(of, plain) {
			return true
		}
	}
	return false
}

// isFor reports whether a rule's ports let it match at one.
func isFor(rule policy.Rule, port uint16) bool {
	return !slices.ContainsFunc(rule, func(c policy.Clause) bool {
		return !slices.ContainsFunc(c, func(m policy.Match) bool {
			return (len(m.Ports) == 0 || slices.Contains(m.Ports, port)) && !slices.Contains(m.NotPorts, port)
		})
	})
}

// never reports whether one of a rule's clauses matches nobody.
func never(rule policy.Rule) bool {
	return slices.ContainsFunc(rule, func(c policy.Clause) bool {
		return !slices.ContainsFunc(c, func(m policy.Match) bool { return !impossible(&m) })
	})
}

// impossible reports whether a list of m holds only what its Not list takes away.
func impossible(m *policy.Match) bool {
	return within(m.Ports, m.NotPorts, same) || within(m.ServiceAccounts, m.NotServiceAccounts, same) ||
		within(m.Principals, m.NotPrincipals, covered) || within(m.TrustDomains, m.NotTrustDomains, covered) ||
		within(m.Namespaces, m.NotNamespaces, covered) ||
		within(m.Sources, m.NotSources, inside) || within(m.Destinations, m.NotDestinations, inside)
}

func within[T any](values, not []T, covered func(v, by T) bool) bool {
	return len(values) > 0 && !slices.ContainsFunc(values, func(v T) bool {
		return !slices.ContainsFunc(not, func(n T) bool { return covered(v, n) })
	})
}

func same[T comparable](a, b T) bool { return a == b }

func inside(p, by netip.Prefix) bool { return p.Bits() >= by.Bits() && by.Contains(p.Addr()) }

// covered reports whether all that p stands for, by stands for, too.
func covered(p, by policy.Pattern) bool {
	begins, prefix := strings.CutSuffix(string(by), "*")
	ends, suffix := strings.CutPrefix(string(by), "*")
	switch {
	case by == "*" || p == by:
		return true
	case suffix:
		return strings.HasSuffix(string(p), ends)
	case prefix:
		return strings.HasPrefix(string(p), begins)
	}
	return false
}
