// SPDX-License-Identifier: Apache-2.0

package configdump

import (
	"net/netip"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// Policy is a policy that is enforced, as Istio's ztunnel gets it from istiod.
type Policy struct {
	Name      string       `json:"name"`
	Namespace string       `json:"namespace"`
	Scope     string       `json:"scope"`
	Action    string       `json:"action"`
	Rules     [][][]*Match `json:"rules"`
}

const (
	global   = "Global"
	ofOne    = "Namespace"
	selected = "WorkloadSelector"
	allow    = "Allow"
	deny     = "Deny"
)

// Match is what one connection must be like; an empty one matches everything.
type Match struct {
	Namespaces          []Text         `json:"namespaces,omitempty"`
	NotNamespaces       []Text         `json:"notNamespaces,omitempty"`
	Principals          []Text         `json:"principals,omitempty"`
	NotPrincipals       []Text         `json:"notPrincipals,omitempty"`
	ServiceAccounts     []Account      `json:"serviceAccounts,omitempty"`
	NotServiceAccounts  []Account      `json:"notServiceAccounts,omitempty"`
	TrustDomains        []Text         `json:"trustDomains,omitempty"`    // ours
	NotTrustDomains     []Text         `json:"notTrustDomains,omitempty"` // ours
	SourceIPs           []netip.Prefix `json:"sourceIps,omitempty"`
	NotSourceIPs        []netip.Prefix `json:"notSourceIps,omitempty"`
	DestinationIPs      []netip.Prefix `json:"destinationIps,omitempty"`
	NotDestinationIPs   []netip.Prefix `json:"notDestinationIps,omitempty"`
	DestinationPorts    []uint16       `json:"destinationPorts,omitempty"`
	NotDestinationPorts []uint16       `json:"notDestinationPorts,omitempty"`
}

// Text is one of its fields: what a text must be, or begin or end with, or that it
// is there.
type Text struct {
	Exact    string    `json:"Exact,omitempty"`
	Prefix   string    `json:"Prefix,omitempty"`
	Suffix   string    `json:"Suffix,omitempty"`
	Presence *struct{} `json:"Presence,omitempty"`
}

// Account is a ServiceAccount.
type Account struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
}

// Policies are those of the objects that are enforced here, AuthorizationPolicies
// first. A PeerAuthentication that is STRICT for all ports refuses who has no
// identity; it stands here as istiod would write it, also where one that is closer to a
// pod takes its place. Those that make a difference by port are only among the objects.
func Policies(o policy.Objects) []Policy {
	out := []Policy{}
	for _, p := range o.AuthorizationPolicies {
		if shown, enforced := authorization(o.RootNamespace, p); enforced {
			out = append(out, shown)
		}
	}
	for _, p := range o.PeerAuthentications {
		nothing := p.Namespace == o.RootNamespace && len(p.Selector) > 0 // as policy.Set has it
		if p.Mode == policy.Strict && len(p.Ports) == 0 && !nothing {
			anyone := &Match{NotPrincipals: []Text{{Presence: &struct{}{}}}}
			out = append(out, Policy{
				Name: "converted_peer_authentication_" + p.Name, Namespace: p.Namespace,
				Scope: scope(o.RootNamespace, p.Object), Action: deny, Rules: [][][]*Match{{{anyone}}},
			})
		}
	}
	return out
}

func authorization(root string, p policy.AuthorizationPolicy) (shown Policy, enforced bool) {
	shown = Policy{Name: p.Name, Namespace: p.Namespace, Scope: scope(root, p.Object), Action: deny, Rules: [][][]*Match{}}
	if p.TargetRefs || p.DryRun {
		return shown, false
	}
	switch p.Action {
	case policy.Allow:
		shown.Action = allow
	case policy.Deny:
	case policy.Refuse: // everyone, since it is not understood
		shown.Rules = append(shown.Rules, [][]*Match{{{}}})
		return shown, true
	default:
		return shown, false
	}
	for _, r := range p.Rules {
		shown.Rules = append(shown.Rules, rule(r))
	}
	return shown, true
}

func scope(root string, o policy.Object) string {
	switch {
	case len(o.Selector) > 0:
		return selected
	case o.Namespace == root:
		return global
	}
	return ofOne
}

func rule(r policy.Rule) [][]*Match {
	clauses := [][]*Match{}
	for _, c := range r {
		matches := []*Match{}
		for _, m := range c {
			matches = append(matches, match(m))
		}
		clauses = append(clauses, matches)
	}
	return clauses
}

func match(m policy.Match) *Match {
	out := &Match{
		Namespaces: texts(m.Namespaces), NotNamespaces: texts(m.NotNamespaces),
		Principals: texts(m.Principals), NotPrincipals: texts(m.NotPrincipals),
		TrustDomains: texts(m.TrustDomains), NotTrustDomains: texts(m.NotTrustDomains),
		SourceIPs: m.Sources, NotSourceIPs: m.NotSources, DestinationIPs: m.Destinations, NotDestinationIPs: m.NotDestinations,
		DestinationPorts: m.Ports, NotDestinationPorts: m.NotPorts,
	}
	for _, a := range m.ServiceAccounts {
		out.ServiceAccounts = append(out.ServiceAccounts, Account{a.Namespace, a.Name})
	}
	for _, a := range m.NotServiceAccounts {
		out.NotServiceAccounts = append(out.NotServiceAccounts, Account{a.Namespace, a.Name})
	}
	return out
}

func texts(patterns []policy.Pattern) (out []Text) {
	for _, p := range patterns {
		out = append(out, text(string(p)))
	}
	return out
}

// text reads a pattern as policy.Pattern says.
func text(s string) Text {
	if s == "*" {
		return Text{Presence: &struct{}{}}
	}
	if end, ok := strings.CutPrefix(s, "*"); ok {
		return Text{Suffix: end}
	}
	if begin, ok := strings.CutSuffix(s, "*"); ok {
		return Text{Prefix: begin}
	}
	return Text{Exact: s}
}
