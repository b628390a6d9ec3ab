// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// dryRun is an AuthorizationPolicy that is not enforced, as it is asked. What refuses
// connections takes compiled policies only, so that a dryRun cannot be among them.
type dryRun struct {
	policy AuthorizationPolicy
	rules  *index
	texts  [2]string // that it would allow, and that it would deny
	counts *dryRunCounts
}

// dryRunCounts are connections by what they got, then by what they would have got: 0 is
// allowed, 1 is denied. They outlive changes of the policy's rules.
type dryRunCounts [2][2]atomic.Uint64

// newDryRun counts on where before, which may be nil, stands.
func newDryRun(p *AuthorizationPolicy, before *dryRun) *dryRun {
	d := &dryRun{policy: *p, rules: newIndex(compile(*p).rules), counts: new(dryRunCounts)}
	d.texts = [2]string{p.String() + ": would allow", p.String() + ": would deny"}
	if before != nil {
		d.counts = before.counts
	}
	return d
}

func (d *dryRun) written() *AuthorizationPolicy { return &d.policy }

// mostDryRuns is how many policies a connection is told of.
const mostDryRuns = 8

// DryRun asks each policy of the workload that is not enforced what would have become of
// a connection if this policy were enforced beside those that are. err is what
// AllowInbound answered. It counts the answers, and returns them for the access record,
// those first that differ from err. Connections of which the same is said share the text.
func (c *Concern) DryRun(r *Request, err error) string {
	if len(c.dryRuns) == 0 {
		return ""
	}
	q := ask(r)
	is := verdictOf(err != nil)
	var differ, agree mentions
	for i, d := range c.dryRuns {
		would := verdictOf(c.wouldRefuse(d, &q, r, err))
		d.counts[is][would].Add(1)
		if would != is {
			differ.add(i, would)
		} else {
			agree.add(i, would)
		}
	}
	for _, m := range agree.first[:min(agree.n, mostDryRuns)] {
		differ.addMention(m)
	}
	differ.n = len(c.dryRuns)
	return c.told.text(differ, c.dryRuns)
}

// mention is a policy by its place, with what it would do.
type mention struct{ place, would int32 }

// mentions are the first of n.
type mentions struct {
	n     int
	first [mostDryRuns]mention
}

func (m *mentions) add(place, would int) { m.addMention(mention{int32(place), int32(would)}) }

func (m *mentions) addMention(one mention) {
	if m.n < mostDryRuns {
		m.first[m.n] = one
	}
	m.n++
}

// maxTold bounds the texts that are kept for one Concern; others are made each time.
const maxTold = 256

// told is what connections were told of the same policies.
type told struct {
	mu    sync.RWMutex
	texts map[mentions]string
}

func (t *told) text(m mentions, of []*dryRun) string {
	t.mu.RLock()
	text, known := t.texts[m]
	t.mu.RUnlock()
	if known {
		return text
	}
	var parts []string
	for _, one := range m.first[:min(m.n, mostDryRuns)] {
		parts = append(parts, of[one.place].texts[one.would])
	}
	if more := m.n - mostDryRuns; more > 0 {
		parts = append(parts, fmt.Sprintf("and %d more", more))
	}
	text = strings.Join(parts, "; ")
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.texts == nil {
		t.texts = map[mentions]string{}
	}
	if len(t.texts) < maxTold {
		t.texts[m] = text
	}
	return text
}

func verdictOf(refused bool) int {
	if refused {
		return 1
	}
	return 0
}

func (c *Concern) wouldRefuse(d *dryRun, q *question, r *Request, err error) bool {
	if r.foreign() {
		return c.wouldRefuseForeign(d, *q)
	}
	matches := d.rules.find(q) != nil
	switch {
	case d.policy.Action != Allow:
		return matches || err != nil
	case err == nil: // some ALLOW policy allows it, or there is none
		return c.notAllowed == nil && !matches
	case err == error(c.notAllowed):
		return !matches || c.plaintextRefused(r) != nil
	default:
		return true
	}
}

// DryRunCount is how many connections got one verdict of a policy that is not enforced.
type DryRunCount struct {
	Namespace, Name string // of the policy
	Verdict         string // with the policy enforced: would_allow or would_deny
	Enforced        string // without it: allowed or denied
	Connections     uint64
}

// DryRuns counts what the policies that are not enforced said so far, of those that
// concern a workload of this node, the oldest first.
func (s *Set) DryRuns() (counts []DryRunCount) {
	for _, d := range s.scopes.Load().known.dryRuns() {
		for is, enforced := range []string{"allowed", "denied"} {
			for would, verdict := range []string{"would_allow", "would_deny"} {
				counts = append(counts, DryRunCount{
					d.policy.Namespace, d.policy.Name, verdict, enforced, d.counts[is][would].Load(),
				})
			}
		}
	}
	return counts
}

// dryRuns are those of all workloads that were asked for, by precedence.
func (k *known) dryRuns() (all []*dryRun) {
	k.mu.RLock()
	seen := map[*dryRun]bool{}
	for _, e := range k.byWho {
		for _, d := range e.concern.dryRuns {
			if !seen[d] {
				seen[d] = true
				all = append(all, d)
			}
		}
	}
	k.mu.RUnlock()
	slices.SortFunc(all, func(a, b *dryRun) int { return older(a.policy.Object, b.policy.Object) })
	return all
}
