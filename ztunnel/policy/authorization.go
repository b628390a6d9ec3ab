// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
)

// Action is what an AuthorizationPolicy does to connections that it matches.
type Action uint8

// The actions. The zero value is that of a policy that is not understood: it refuses
// everyone, whatever its rules and other policies say.
const (
	Refuse Action = iota
	Allow         // lets them in; where one applies, only what one matches gets in
	Deny          // refuses them
	Audit         // nothing: it asks for a log
	Custom        // nothing: its authorizer is asked by proxies of layer 7
)

var actions = [...]string{Refuse: "none", Allow: "ALLOW", Deny: "DENY", Audit: "AUDIT", Custom: "CUSTOM"}

// String returns the action as it is written in an AuthorizationPolicy.
func (a Action) String() string { return actions[a] }

// MarshalText writes the action's name into dumps.
func (a Action) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads the action's name.
func (a *Action) UnmarshalText(text []byte) error {
	if string(text) == Refuse.String() {
		*a = Refuse
		return nil
	}
	action, ok := ParseAction(string(text))
	if !ok || len(text) == 0 {
		return fmt.Errorf("%q: not an action", text)
	}
	*a = action
	return nil
}

// ParseAction reads the action of an AuthorizationPolicy; the empty string is ALLOW.
func ParseAction(s string) (Action, bool) {
	switch s {
	case "", "ALLOW":
		return Allow, true
	case "DENY":
		return Deny, true
	case "AUDIT":
		return Audit, true
	case "CUSTOM":
		return Custom, true
	}
	return Refuse, false
}

// AuthorizationPolicy says who may connect, in a normal form: what could not be
// judged is gone from it, and it is narrower for that. A rule of an ALLOW policy that
// held such a thing is Never; in any other policy the thing counts as true.
type AuthorizationPolicy struct {
	Object
	// TargetRefs: it is attached to a waypoint or service, not to workloads.
	TargetRefs bool
	// DryRun: it is not enforced, and what it would do is counted.
	DryRun bool   `json:",omitzero"`
	Action Action `json:",omitzero"`
	// Rules match if one of them does.
	Rules []Rule `json:",omitzero"`
	// Warnings say what could not be judged; each begins with its field.
	Warnings []string `json:",omitzero"`
}

// String returns "AuthorizationPolicy namespace/name".
func (p AuthorizationPolicy) String() string {
	return "AuthorizationPolicy " + p.Namespace + "/" + p.Name
}

// enforced reports whether p concerns workloads and what happens to connections.
func (p AuthorizationPolicy) enforced() bool {
	return p.judges() && !p.DryRun
}

// rehearsed reports whether p would be enforced if it were no dry run.
func (p AuthorizationPolicy) rehearsed() bool { return p.judges() && p.DryRun }

func (p AuthorizationPolicy) judges() bool {
	return !p.TargetRefs && p.Action != Audit && p.Action != Custom
}

// Rule matches if all of its clauses do, so that one without a clause matches
// everything.
type Rule []Clause

// Never reports whether r matches nothing: it is a rule of a policy that allows, and held
// what could not be judged. It keeps the places of those behind it.
func (r Rule) Never() bool {
	return slices.ContainsFunc(r, func(c Clause) bool { return len(c) == 0 })
}

// Clause matches if one of its matches does.
type Clause []Match

// Match matches if every field does that is there. A list matches if one of its
// values does, a Not list if none does.
type Match struct {
	// Principals are SPIFFE IDs without "spiffe://".
	Principals, NotPrincipals           []Pattern                 `json:",omitzero"`
	TrustDomains, NotTrustDomains       []Pattern                 `json:",omitzero"`
	Namespaces, NotNamespaces           []Pattern                 `json:",omitzero"`
	ServiceAccounts, NotServiceAccounts []identity.ServiceAccount `json:",omitzero"`
	Sources, NotSources                 []netip.Prefix            `json:",omitzero"`
	Destinations, NotDestinations       []netip.Prefix            `json:",omitzero"`
	Ports, NotPorts                     []uint16                  `json:",omitzero"`
}

// Empty reports whether m matches everything, as no field is there.
func (m *Match) Empty() bool { return reflect.ValueOf(m).Elem().IsZero() }

// Pattern is compared byte by byte: "*" is anything but nothing, "*x" what ends in
// x, "x*" what begins with x, all else itself. A * that stands elsewhere is a *.
type Pattern string

// Matches reports whether s is one of those that the pattern stands for. Nothing
// matches the empty string, which is what a peer without an identity has.
func (p Pattern) Matches(s string) bool {
	if s == "" {
		return false
	}
	switch kind, value := p.parse(); kind {
	case present:
		return true
	case suffix:
		return strings.HasSuffix(s, value)
	case prefix:
		return strings.HasPrefix(s, value)
	default:
		return s == value
	}
}

type patternKind uint8

const (
	exact patternKind = iota
	present
	suffix
	prefix
)

// parse returns the value without its star.
func (p Pattern) parse() (patternKind, string) {
	s := string(p)
	if s == "*" {
		return present, ""
	}
	if value, ok := strings.CutPrefix(s, "*"); ok {
		return suffix, value
	}
	if value, ok := strings.CutSuffix(s, "*"); ok {
		return prefix, value
	}
	return exact, s
}
