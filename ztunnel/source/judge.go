// SPDX-License-Identifier: Apache-2.0

package source

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// judge makes the normal form of the rules of an AuthorizationPolicy. It never widens: of
// a policy that allows, a rule with something that cannot be judged is Never; in all
// others that thing is, which has the rule match as if it were true.
type judge struct {
	namespace string // of the policy
	allows    bool
	unknown   map[string][]string // fields of a rule, by its path

	unjudged  bool // something in the rule at hand
	warned    int
	problems  []*Problem // the first of them
	malformed []error    // those of these that mean nothing to anybody
}

// maxWarnings bounds what is kept of an object that is wrong throughout.
const maxWarnings = 20

// cannot takes something that cannot be judged here.
func (j *judge) cannot(code Code, path, format string, args ...any) {
	j.unjudged = true
	j.warn(code, path, format, args...)
}

// wrong takes something that means nothing.
func (j *judge) wrong(code Code, path, format string, args ...any) {
	j.cannot(code, path, format, args...)
	if len(j.malformed) < maxWarnings {
		j.malformed = append(j.malformed, problem(code, path, format, args...))
	}
}

func (j *judge) warn(code Code, path, format string, args ...any) {
	if j.warned++; j.warned <= maxWarnings {
		j.problems = append(j.problems, problem(code, path, format, args...))
	}
}

// told returns the warnings, in bounds.
func (j *judge) told() (warnings []string) {
	for _, p := range j.problems {
		warnings = append(warnings, p.Error())
	}
	if n := j.warned - maxWarnings; n > 0 {
		warnings = append(warnings, fmt.Sprintf("and %d more", n))
	}
	return warnings
}

func (j *judge) rules(rules []*Rule) (out []policy.Rule) {
	for i, r := range rules {
		path := fmt.Sprintf("spec.rules[%d]", i)
		j.unjudged = false
		for _, field := range j.unknown[path] {
			j.cannot(UnknownField, field, "not known to this version")
		}
		rule := j.rule(path, r)
		if j.allows && j.unjudged {
			rule = policy.Rule{policy.Clause{}} // Never
		}
		out = append(out, rule)
	}
	return out
}

func (j *judge) rule(path string, r *Rule) (out policy.Rule) {
	if r == nil {
		j.wrong(EmptyList, path, "null: not a rule")
		return nil
	}
	for _, clause := range []policy.Clause{j.from(path+".from", r.From), j.to(path+".to", r.To)} {
		if clause != nil {
			out = append(out, clause)
		}
	}
	j.some(path+".when", r.When == nil, len(r.When))
	for i, c := range r.When {
		if m, ok := j.condition(fmt.Sprintf("%s.when[%d]", path, i), c); ok {
			out = append(out, policy.Clause{m})
		}
	}
	return out
}

// some takes a list that is there and has nothing in it.
func (j *judge) some(path string, absent bool, n int) {
	if !absent && n == 0 {
		j.wrong(EmptyList, path, "an empty list")
	}
}

func (j *judge) from(path string, from []*From) (out policy.Clause) {
	j.some(path, from == nil, len(from))
	for i, f := range from {
		path := fmt.Sprintf("%s[%d].source", path, i)
		if f == nil || f.Source == nil {
			j.wrong(EmptyList, path, "required")
			out = append(out, policy.Match{})
			continue
		}
		out = append(out, j.source(path, f.Source))
	}
	return out
}

func (j *judge) source(path string, s *Peer) policy.Match {
	before := j.warned
	m := policy.Match{
		Principals:         j.patterns(path+".principals", s.Principals, principalBytes),
		NotPrincipals:      j.patterns(path+".notPrincipals", s.NotPrincipals, principalBytes),
		TrustDomains:       j.patterns(path+".trustDomains", s.TrustDomains, nameBytes),
		NotTrustDomains:    j.patterns(path+".notTrustDomains", s.NotTrustDomains, nameBytes),
		Namespaces:         j.patterns(path+".namespaces", s.Namespaces, nameBytes),
		NotNamespaces:      j.patterns(path+".notNamespaces", s.NotNamespaces, nameBytes),
		ServiceAccounts:    list(j, path+".serviceAccounts", s.ServiceAccounts, j.account),
		NotServiceAccounts: list(j, path+".notServiceAccounts", s.NotServiceAccounts, j.account),
		Sources:            list(j, path+".ipBlocks", s.IPBlocks, prefix),
		NotSources:         list(j, path+".notIpBlocks", s.NotIPBlocks, prefix),
	}
	j.unlessAbsent(Layer7, path+".requestPrincipals", s.RequestPrincipals, "requests")
	j.unlessAbsent(Layer7, path+".notRequestPrincipals", s.NotRequestPrincipals, "requests")
	j.unlessAbsent(RemoteIP, path+".remoteIpBlocks", s.RemoteIPBlocks, "what a proxy says of its client")
	j.unlessAbsent(RemoteIP, path+".notRemoteIpBlocks", s.NotRemoteIPBlocks, "what a proxy says of its client")
	if m.Empty() && j.warned == before {
		j.wrong(EmptyList, path, "names nothing")
	}
	return m
}

func (j *judge) to(path string, to []*To) (out policy.Clause) {
	j.some(path, to == nil, len(to))
	for i, t := range to {
		path := fmt.Sprintf("%s[%d].operation", path, i)
		if t == nil || t.Operation == nil {
			j.wrong(EmptyList, path, "required")
			out = append(out, policy.Match{})
			continue
		}
		out = append(out, j.operation(path, t.Operation))
	}
	return out
}

func (j *judge) operation(path string, o *Operation) policy.Match {
	before := j.warned
	m := policy.Match{
		Ports:    list(j, path+".ports", o.Ports, port),
		NotPorts: list(j, path+".notPorts", o.NotPorts, port),
	}
	for _, field := range []struct {
		name   string
		values []string
	}{
		{"hosts", o.Hosts}, {"notHosts", o.NotHosts}, {"methods", o.Methods}, {"notMethods", o.NotMethods},
		{"paths", o.Paths}, {"notPaths", o.NotPaths},
	} {
		j.unlessAbsent(Layer7, path+"."+field.name, field.values, "requests")
	}
	if m.Empty() && j.warned == before {
		j.wrong(EmptyList, path, "names nothing")
	}
	return m
}

// unlessAbsent takes a field about what a connection carries.
func (j *judge) unlessAbsent(code Code, path string, values []string, about string) {
	if values != nil {
		j.cannot(code, path, "is about %s, which nobody looks at here", about)
	}
}

// condition returns false for one that cannot be judged.
func (j *judge) condition(path string, c *Condition) (m policy.Match, ok bool) {
	if c == nil {
		j.wrong(EmptyList, path, "null: not a condition")
		return m, false
	}
	if c.Values == nil && c.NotValues == nil {
		j.wrong(EmptyList, path, "neither values nor notValues")
		return m, false
	}
	yes, no := path+".values", path+".notValues"
	switch c.Key {
	case "source.ip":
		m.Sources, m.NotSources = list(j, yes, c.Values, prefix), list(j, no, c.NotValues, prefix)
	case "source.namespace":
		m.Namespaces, m.NotNamespaces = j.patterns(yes, c.Values, nameBytes), j.patterns(no, c.NotValues, nameBytes)
	case "source.principal":
		m.Principals, m.NotPrincipals = j.patterns(yes, c.Values, principalBytes), j.patterns(no, c.NotValues, principalBytes)
	case "destination.ip":
		m.Destinations, m.NotDestinations = list(j, yes, c.Values, prefix), list(j, no, c.NotValues, prefix)
	case "destination.port":
		m.Ports, m.NotPorts = list(j, yes, c.Values, port), list(j, no, c.NotValues, port)
	default:
		j.cannot(keyCode(c.Key), path+".key", "%.80q: not known at layer 4", c.Key)
		return m, false
	}
	return m, true
}

// keyCode tells a condition of requests from one that is misspelt.
func keyCode(key string) Code {
	if key == "remote.ip" {
		return RemoteIP
	}
	for _, layer7 := range []string{"request.", "connection.", "experimental."} {
		if strings.HasPrefix(key, layer7) {
			return Layer7
		}
	}
	return UnknownKey
}

// list reads the values of a field. If one means nothing, none is returned: the others
// are not what was written.
func list[T any](j *judge, path string, values []string, read func(string) (T, *Problem)) []T {
	j.some(path, values == nil, len(values))
	out := make([]T, 0, len(values))
	bad := false
	for i, text := range values {
		v, wrong := read(text)
		if wrong != nil {
			j.wrong(wrong.Code, fmt.Sprintf("%s[%d]", path, i), "%.80q: %s", text, wrong.Text)
			bad = true
		}
		out = append(out, v)
	}
	if bad || len(out) == 0 {
		return nil
	}
	return out
}

// The bytes, beside letters and digits, of SPIFFE IDs without their scheme, and of
// namespaces and trust domains.
const (
	nameBytes      = ".-_"
	principalBytes = nameBytes + "/"
)

// patterns reads patterns of what is made of letters, digits and the bytes in others.
func (j *judge) patterns(path string, values []string, others string) []policy.Pattern {
	for i, text := range values {
		if strings.Contains(strings.TrimPrefix(strings.TrimSuffix(text, "*"), "*"), "*") || strings.HasPrefix(text, "*") && len(text) > 1 && strings.HasSuffix(text, "*") {
			j.warn(StarInside, fmt.Sprintf("%s[%d]", path, i), "%.80q: a * stands for others only at the beginning or at the end; this is itself, and matches nobody", text)
		}
	}
	return list(j, path, values, func(text string) (policy.Pattern, *Problem) {
		switch {
		case text == "":
			return "", problem(BadName, "", "empty")
		case strings.HasPrefix(text, "spiffe://"):
			return "", problem(SpiffeScheme, "", "written without spiffe://")
		}
		for _, b := range []byte(text) {
			letter := 'a' <= b|0x20 && b|0x20 <= 'z'
			if !letter && (b < '0' || b > '9') && b != '*' && strings.IndexByte(others, b) < 0 {
				return "", problem(BadName, "", "no such name has the byte %q", b)
			}
		}
		return policy.Pattern(text), nil
	})
}

// account reads "namespace/name", or the name of one of the policy's namespace.
func (j *judge) account(text string) (identity.ServiceAccount, *Problem) {
	if !strings.Contains(text, "/") {
		text = j.namespace + "/" + text
	}
	sa, err := identity.ParseServiceAccount(text)
	if err != nil {
		return sa, problem(BadName, "", "%v", err)
	}
	return sa, nil
}

// port reads one as a number is written.
func port(text string) (uint16, *Problem) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != text {
		return 0, problem(BadPort, "", "not a port from 1 to 65535")
	}
	return uint16(n), nil
}

// prefix reads an address or a CIDR. One of v4-mapped addresses is of IPv4, as
// addresses of connections are.
func prefix(text string) (netip.Prefix, *Problem) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	p, err := netip.ParsePrefix(text)
	switch addr := p.Addr(); {
	case err != nil:
		return netip.Prefix{}, problem(BadAddress, "", "not an address or a CIDR")
	case !addr.Is4In6():
		return p.Masked(), nil
	case p.Bits() < 96:
		return netip.Prefix{}, problem(BadAddress, "", "of IPv4 and of IPv6")
	default:
		return netip.PrefixFrom(addr.Unmap(), p.Bits()-96).Masked(), nil
	}
}
