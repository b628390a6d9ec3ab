// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"encoding/json"
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
	blocking func() []string
}

// isolation is one direction of a Concern.
type isolation struct {
	rules  []Rule
	denied *policy.Denied // for what no rule admits; nil: not isolated
}

// newConcern returns nil if no policy isolates in any direction.
func newConcern(policies []*Policy, mode Mode) *Concern {
	c := &Concern{policies: policies, mode: mode}
	c.blocking = sync.OnceValue(c.findBlocking)
	for _, d := range []Direction{Ingress, Egress} {
		var names []string
		for _, p := range policies {
			if side := p.Side(d); side.Isolates {
				names = append(names, p.Namespace+"/"+p.Name)
				c.sides[d].rules = append(c.sides[d].rules, side.Rules...)
			}
		}
		if len(names) > 0 {
			c.sides[d].denied = &policy.Denied{Policy: "NetworkPolicy " + few(names), Reason: "no " + d.String() + " rule admits it"}
		}
	}
	if c.sides[Ingress].denied == nil && c.sides[Egress].denied == nil {
		return nil
	}
	return c
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

// Ask returns why the policies of q.Self do not admit a connection, nil if they do, and
// the mode of its namespace, which says what becomes of that. It allocates nothing.
func (s *Set) Ask(q *Question) (*policy.Denied, Mode) {
	w := s.world.Load()
	c := w.concern(q.Self)
	if c == nil {
		return nil, Off
	}
	return c.ask(w, q), c.mode
}

// ask returns nil if a rule admits q, or if the pod is not isolated.
func (c *Concern) ask(w *world, q *Question) *policy.Denied {
	side := &c.sides[q.Direction]
	if side.denied == nil {
		return nil
	}
	for i := range side.rules {
		if r := &side.rules[i]; r.hasPort(q) && r.hasPeer(w, q) {
			return nil
		}
	}
	return side.denied
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
	connectedTo := q.Self
	if q.Direction == Egress {
		connectedTo = q.Peer
	}
	if connectedTo == nil {
		return false
	}
	for _, named := range connectedTo.Ports {
		if named.Name == p.Name && named.Port == q.Port {
			return true
		}
	}
	return false
}

func (r *Rule) hasPeer(w *world, q *Question) bool {
	for i := range r.Peers {
		if r.Peers[i].has(w, q) {
			return true
		}
	}
	return len(r.Peers) == 0
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

// Selects reports whether a verdict may change with the labels of somebody else: a rule
// names pods.
func (c *Concern) Selects(d Direction) bool {
	return c != nil && slices.ContainsFunc(c.sides[d].rules, func(r Rule) bool {
		return slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.Block == nil })
	})
}

// Blocking names the policies for which the pod network, which sees of the mesh only
// tunnels, drops what they admit: a rule for some TCP port, and none for the same peers
// with port 15008. It is the same for as long as c is.
func (c *Concern) Blocking() []string {
	if c == nil {
		return nil
	}
	return c.blocking()
}

func (c *Concern) findBlocking() (names []string) {
	tunnels := [2]peerSet{c.sides[Ingress].tunnels(), c.sides[Egress].tunnels()}
	for _, p := range c.policies {
		if tunnels[Ingress].lacks(&p.Ingress) || tunnels[Egress].lacks(&p.Egress) {
			names = append(names, p.Namespace+"/"+p.Name)
		}
	}
	return names
}

// peerSet is those to whom rules admit tunnels, as they are written.
type peerSet struct {
	all   bool
	texts map[string]bool
}

func (i *isolation) tunnels() peerSet {
	s := peerSet{texts: map[string]bool{}}
	for _, r := range i.rules {
		if !r.hasPort(&Question{Self: &workload.Workload{}, Port: workload.HBONEPort}) {
			continue
		}
		s.all = s.all || len(r.Peers) == 0
		for _, p := range r.Peers {
			s.texts[p.text()] = true
		}
	}
	return s
}

// lacks reports whether a rule admits somebody, but no rule their tunnels.
func (s peerSet) lacks(side *Side) bool {
	return side.Isolates && !s.all && slices.ContainsFunc(side.Rules, func(r Rule) bool {
		return len(r.Peers) == 0 || slices.ContainsFunc(r.Peers, func(p Peer) bool { return !s.texts[p.text()] })
	})
}

// text is the same of two peers that are written alike.
func (p *Peer) text() string {
	text, _ := json.Marshal(p) // of what was read from text
	return string(text)
}
