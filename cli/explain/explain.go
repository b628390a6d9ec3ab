// SPDX-License-Identifier: Apache-2.0

// Package explain says what policies say of a connection to a pod, and why: of every
// rule that concerns the pod whether it matches, and by which field.
//
// Not all has to be known of the connection. What hangs on the rest is Open, so that
// the verdict is policy.Set's wherever it is not Open.
package explain

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Truth is whether something holds for a connection of which not all is known.
type Truth uint8

// The truths, so that min is and, max is or.
const (
	No Truth = iota
	Open
	Yes
)

// String returns "no", "open" or "yes".
func (t Truth) String() string { return [...]string{"no", "open", "yes"}[t] }

// MarshalText writes it into JSON.
func (t Truth) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func truth(b bool) Truth {
	if b {
		return Yes
	}
	return No
}

// Connection is what is known of a connection.
type Connection struct {
	Dst  workload.Workload // required
	Port uint16            // of the pod; 0: not known
	From *Source           // nil: not known, but of the pod's trust domain
}

// Source is who opens a connection.
type Source struct {
	ID   spiffeid.ID        // zero: it comes in plaintext
	Addr netip.Addr         // zero: not known
	Pod  *workload.Workload // in the mesh; nil: not known which
}

// Answer is what the policies say.
type Answer struct {
	Allowed Truth  `json:"allowed"`
	By      string `json:"by,omitempty"` // the object that refuses it
	Why     string `json:"why"`
	Modes   []Mode `json:"modes"`
	Rules   []Rule `json:"rules"` // DENY, then ALLOW, then what is not enforced

	Network         []Isolation `json:"networkPolicies"`                   // of the source, then of the destination
	NetworkNotAsked string      `json:"networkPoliciesNotAsked,omitempty"` // why they were not
}

// Mode is an effective PeerAuthentication mode.
type Mode struct {
	Port uint16      `json:"port,omitempty"` // 0: all that no other line names
	Mode policy.Mode `json:"mode"`
	By   string      `json:"by"` // the object that set it, or default
}

// Rule is what a rule of an AuthorizationPolicy says.
type Rule struct {
	Policy   string        `json:"policy"` // namespace/name
	Action   policy.Action `json:"action"`
	Idle     string        `json:"notEnforced,omitempty"` // why the policy is not enforced
	Rule     int           `json:"rule"`                  // its place in the object; -1: the object has none
	Matches  Truth         `json:"matches"`
	Why      string        `json:"why"`
	Warnings []string      `json:"warnings,omitempty"` // what of it could not be judged
}

// Explain asks policies about c. Of a pod outside the mesh nobody asks them.
func Explain(policies policy.Objects, c Connection) Answer {
	a := Answer{Modes: modes(policies, c), Rules: []Rule{}}
	q := newQuestion(c)
	concern := concerning(policies, c.Dst)
	for _, p := range concern {
		a.Rules = append(a.Rules, q.rules(p)...)
	}
	if !c.Dst.Meshed {
		a.Allowed, a.Why = Yes, "the pod is not in the mesh, which enforces nothing there"
		return a
	}
	a.judge(concern, c)
	return a
}

// concerning returns the policies that select dst: DENY before ALLOW before those that
// are not enforced, each by precedence.
func concerning(policies policy.Objects, dst workload.Workload) []policy.AuthorizationPolicy {
	wide := func(p policy.AuthorizationPolicy) bool { return p.Namespace == policies.RootNamespace }
	var all []policy.AuthorizationPolicy
	for _, p := range policies.AuthorizationPolicies {
		if (wide(p) || p.Namespace == dst.Namespace) && p.Selector.Matches(dst.Labels) {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b policy.AuthorizationPolicy) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), -cmp.Compare(truth(wide(a)), truth(wide(b))),
			a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return all
}

func rank(p policy.AuthorizationPolicy) int {
	switch {
	case idle(p) != "":
		return 2
	case p.Action == policy.Allow:
		return 1
	}
	return 0
}

// idle is why a policy is not enforced; empty: it is.
func idle(p policy.AuthorizationPolicy) string {
	switch {
	case p.TargetRefs:
		return "targetRefs"
	case p.Action == policy.Audit || p.Action == policy.Custom:
		return "layer 7"
	case p.DryRun:
		return "dry run"
	}
	return ""
}

// judge goes through the order of docs/policy.md.
func (a *Answer) judge(concern []policy.AuthorizationPolicy, c Connection) {
	var open []string
	for _, r := range a.Rules {
		if r.Idle != "" || r.Action == policy.Allow {
			continue
		}
		if r.Matches == Yes {
			a.refuse("AuthorizationPolicy "+r.Policy, r.denies())
			return
		}
		if r.Matches == Open {
			open = append(open, fmt.Sprintf("whether rule %d of %s denies it", r.Rule, r.Policy))
		}
	}
	allowing := slices.DeleteFunc(slices.Clone(concern), func(p policy.AuthorizationPolicy) bool { return rank(p) != 1 })
	if len(allowing) == 0 && foreign(c) {
		a.refuse("", "the peer is of the trust domain "+c.From.ID.TrustDomain().Name()+", and no AuthorizationPolicy names it")
		return
	}
	if by, allowed := a.allowed(allowing); allowed == No {
		a.refuse(allowing[0].String(), notAllowed(len(allowing)))
		return
	} else if allowed == Open {
		open = append(open, "whether an ALLOW policy's rule matches it")
	} else {
		a.Why = by
	}
	switch by, plain := a.plaintext(c); {
	case plain == No:
		a.refuse(by.By, by.Mode.String()+", and the connection is plaintext")
		return
	case plain == Open:
		open = append(open, "whether it is plaintext at a port that is STRICT")
	}
	a.Allowed = Yes
	if len(open) > 0 {
		a.Allowed, a.Why = Open, "it hangs on "+strings.Join(open, ", and ")
	}
}

func (a *Answer) refuse(by, why string) {
	if by == byDefault {
		by = ""
	}
	a.Allowed, a.By, a.Why = No, by, why
}

func (r Rule) denies() string {
	if r.Rule < 0 {
		return r.Why
	}
	return fmt.Sprintf("rule %d denies it", r.Rule)
}

func notAllowed(policies int) string {
	if policies == 1 {
		return "no rule allows it"
	}
	return fmt.Sprintf("no rule of it or of %d more allows it", policies-1)
}

// allowed is Yes, too, if there is no ALLOW policy.
func (a *Answer) allowed(allowing []policy.AuthorizationPolicy) (by string, t Truth) {
	if len(allowing) == 0 {
		return "no policy refuses it", Yes
	}
	for _, r := range a.Rules {
		if r.Idle == "" && r.Action == policy.Allow && r.Matches > t {
			by, t = fmt.Sprintf("rule %d of AuthorizationPolicy %s allows it", r.Rule, r.Policy), r.Matches
		}
	}
	return by, t
}

// plaintext is whether the mode lets it in, and which decides.
func (a *Answer) plaintext(c Connection) (by Mode, t Truth) {
	if c.From != nil && !c.From.ID.IsZero() {
		return by, Yes
	}
	least, most := Yes, No
	for _, m := range a.Modes {
		let := truth(m.Mode.Plaintext())
		if least, most = min(least, let), max(most, let); let == No {
			by = m
		}
	}
	switch {
	case least == Yes:
		return by, Yes
	case most == No && c.From != nil:
		return by, No
	}
	return by, Open
}

const byDefault = "default"

// modes are that of the connection's port or, if it is not known, those of all.
func modes(policies policy.Objects, c Connection) []Mode {
	set := policy.NewSet()
	set.Replace(policy.Objects{RootNamespace: policies.RootNamespace, PeerAuthentications: policies.PeerAuthentications})
	at := func(port uint16) Mode {
		mode, by := set.Effective(c.Dst, port)
		return Mode{port, mode, cmp.Or(by, byDefault)}
	}
	all := []Mode{at(c.Port)}
	if c.Port != 0 {
		return all
	}
	_, ports := set.RefusesPlaintext(c.Dst)
	for port := range ports {
		all = append(all, at(port))
	}
	slices.SortFunc(all, func(a, b Mode) int { return cmp.Compare(a.Port, b.Port) })
	return all
}
