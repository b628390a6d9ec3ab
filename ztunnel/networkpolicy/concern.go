// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Direction is that of a connection, as the pod sees it that is asked about.
type Direction uint8

// The directions.
const (
	Ingress Direction = iota
	Egress
)

// String returns "ingress" or "egress".
func (d Direction) String() string { return [...]string{"ingress", "egress"}[d] }

// Concern is what the policies of a namespace say of pods with the same labels.
type Concern struct {
	policies []*Policy // that select them
	mode     Mode
	sides    [2]isolation // by Direction
	lacking  func() []lack
}

// isolation is one direction of a Concern.
type isolation struct {
	rules   []Rule
	indexes []*index       // of rules: each is in one of them
	denied  *policy.Denied // for what no rule admits; nil: not isolated
	hangsOn
}

// newConcern returns nil if no policy isolates in any direction.
func newConcern(policies []*Policy, mode Mode, large *largeSides) *Concern {
	c := &Concern{policies: policies, mode: mode}
	for _, d := range []Direction{Ingress, Egress} {
		c.sides[d] = newIsolation(policies, d, large)
	}
	c.lacking = sync.OnceValue(c.findLacking)
	if c.sides[Ingress].denied == nil && c.sides[Egress].denied == nil {
		return nil
	}
	return c
}

// newIsolation puts the rules of all small sides into one index, so that a decision costs the
// same however many policies there are.
func newIsolation(policies []*Policy, d Direction, large *largeSides) (i isolation) {
	var names []string
	var small []Rule
	for _, p := range policies {
		if side := p.Side(d); side.Isolates {
			names = append(names, p.Namespace+"/"+p.Name)
			i.rules = append(i.rules, side.Rules...)
			if side.isLarge() {
				i.indexes = append(i.indexes, large.index(p.Namespace, side))
			} else {
				small = append(small, side.Rules...)
			}
		}
	}
	if len(names) == 0 {
		return isolation{}
	}
	for k := range i.rules {
		i.hangsOn.add(&i.rules[k])
	}
	i.indexes = append(i.indexes, newIndex(policies[0].Namespace, small))
	i.denied = &policy.Denied{Policy: "NetworkPolicy " + few(names), Reason: "no " + d.String() + " rule admits it"}
	return i
}

// Side returns what the policy says of a direction.
func (p *Policy) Side(d Direction) *Side {
	if d == Egress {
		return &p.Egress
	}
	return &p.Ingress
}

// fewNames is how many policies a refusal names.
const fewNames = 5

func few(names []string) string {
	if n := len(names) - fewNames; n > 0 {
		names = append(names[:fewNames:fewNames], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(names, ", ")
}

// Question is a connection as one of its ends sees it.
type Question struct {
	Direction
	Self *workload.Workload // whose policies are asked
	Peer *workload.Workload // the other end; nil: nobody knows which pod it is
	Addr netip.Addr         // of the other end
	Port uint16             // of the pod that is connected to
}

// connectedTo is the pod whose port q.Port is; nil: nobody knows which.
func (q *Question) connectedTo() *workload.Workload {
	if q.Direction == Egress {
		return q.Peer
	}
	return q.Self
}

// Ask returns why the policies of q.Self do not admit a connection, nil if they do, and
// the mode of its namespace, which says what becomes of that. It allocates nothing.
func (s *Set) Ask(q *Question) (*policy.Denied, Mode) {
	denied, mode, _ := s.Judge(q)
	return denied, mode
}

// Judge is Ask, and says by which grounds.
func (s *Set) Judge(q *Question) (*policy.Denied, Mode, Grounds) {
	w := s.world.Load()
	c := w.concern(q.Self)
	if c == nil {
		return nil, Off, Grounds{}
	}
	return c.ask(w, q), c.mode, w.grounds(c, q)
}

// ask returns nil if a rule admits q, or if the pod is not isolated.
func (c *Concern) ask(w *world, q *Question) *policy.Denied {
	side := &c.sides[q.Direction]
	if side.denied == nil || side.admits(w, q) {
		return nil
	}
	return side.denied
}

func (i *isolation) admits(w *world, q *Question) bool {
	for _, x := range i.indexes {
		if x.admits(w, q) {
			return true
		}
	}
	return false
}

func (r *Rule) hasPort(q *Question) bool {
	for i := range r.Ports {
		if r.Ports[i].Has(q) {
			return true
		}
	}
	return len(r.Ports) == 0
}

// Has reports whether q is for this port.
func (p *Port) Has(q *Question) bool {
	if p.Name == "" {
		return p.First <= q.Port && q.Port <= p.Last
	}
	of := q.connectedTo()
	return of != nil && slices.Contains(of.Ports, workload.NamedPort{Name: p.Name, Port: q.Port})
}

func (p *Peer) has(w *world, q *Question) bool {
	switch {
	case p.Block != nil:
		return p.Block.Has(q.Addr.Unmap())
	case q.Peer == nil || p.Pods == nil && p.Namespaces == nil:
		return false
	case p.Pods != nil && !p.Pods.MatchesPod(q.Peer.Labels):
		return false
	case p.Namespaces == nil:
		return q.Peer.Namespace == q.Self.Namespace
	}
	namespace, known := w.namespaces[q.Peer.Namespace]
	return p.Namespaces.MatchesNamespace(q.Peer.Namespace, namespace.Labels, known)
}

// Enforces reports whether what the policies do not admit is refused.
func (c *Concern) Enforces() bool { return c != nil && c.mode == Enforce }
