// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Sources returns, for a pod that opens a connection to dst, the Source at each address by
// which it can: of the families that dst has, too. Without any it is one of no address.
func Sources(pod *workload.Workload, dst *workload.Workload) (all []Source) {
	s := Source{}
	if pod.Meshed {
		s.ID, s.Pod = pod.ID, pod
	}
	for _, addr := range pod.Addrs {
		reaches := func(to netip.Addr) bool { return plain(to).Is4() == plain(addr).Is4() }
		if slices.ContainsFunc(dst.Addrs, reaches) {
			s.Addr = addr
			all = append(all, s)
		}
	}
	if len(all) == 0 {
		if len(pod.Addrs) > 0 {
			s.Addr = pod.Addrs[0]
		}
		return []Source{s}
	}
	return all
}

// ExplainFrom explains a connection from one of several addresses of a source; none: c.From
// says all. Where they have different answers, it is open which one counts.
func ExplainFrom(policies policy.Objects, n *Network, c Connection, from []Source) Answer {
	if len(from) == 0 {
		return explainAll(policies, n, c)
	}
	var answers []Answer
	for i := range from {
		c.From = &from[i]
		answers = append(answers, explainAll(policies, n, c))
	}
	a := answers[0]
	for i, other := range answers[1:] {
		a.join(&other, from[0].Addr, from[i+1].Addr)
	}
	a.sayWhich(answers, from)
	return a
}

func explainAll(policies policy.Objects, n *Network, c Connection) Answer {
	a := Explain(policies, c)
	a.AskNetwork(n, c)
	return a
}

// join opens what b, which is of the same policies, says otherwise.
func (a *Answer) join(b *Answer, of, other netip.Addr) {
	for i := range a.Rules {
		if mine, theirs := &a.Rules[i], &b.Rules[i]; mine.Matches != theirs.Matches {
			mine.Why = fmt.Sprintf("from %v: %s; from %v: %s", of, mine.Why, other, theirs.Why)
			mine.Matches = Open
		}
	}
	for i := range a.Network {
		if mine, theirs := &a.Network[i], &b.Network[i]; mine.Admits != theirs.Admits {
			mine.Admits, mine.Rule = Open, -1
		}
	}
}

// sayWhich makes the verdict open if it is not the same from all addresses.
func (a *Answer) sayWhich(answers []Answer, from []Source) {
	same := func(b Answer) bool { return b.Allowed == answers[0].Allowed && b.By == answers[0].By }
	if !slices.ContainsFunc(answers, func(b Answer) bool { return !same(b) }) {
		return
	}
	var parts []string
	for i, b := range answers {
		why := b.Why
		if b.By != "" {
			why = b.By + ": " + why
		}
		parts = append(parts, fmt.Sprintf("from %v it is %s (%s)", from[i].Addr, verdict(b.Allowed), why))
	}
	if a.By = ""; slices.ContainsFunc(answers, func(b Answer) bool { return b.Allowed != No }) {
		a.Allowed = Open
	}
	a.Why = strings.Join(parts, ", ")
}

func verdict(t Truth) string { return [...]string{"refused", "open", "allowed"}[t] }
