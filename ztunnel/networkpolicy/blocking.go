// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"context"
	"encoding/json"
	"iter"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Blocking names, sorted, the policies of concerns for which the pod network, which sees of
// the mesh only tunnels, drops what they admit: a rule for some TCP port that admits pods of
// the mesh, and none for the same peers with port 15008. pods yields all pods that there are.
// With many policies the search takes seconds: it fails if ctx ends.
func (s *Set) Blocking(ctx context.Context, concerns []*Concern, pods iter.Seq[workload.Workload]) (names []string, err error) {
	m := &members{world: s.world.Load(), pods: pods, known: map[string]bool{}}
	for _, c := range concerns {
		if c == nil {
			continue
		}
		for _, l := range c.lacking() {
			if slices.ContainsFunc(l.peers, func(p *Peer) bool { return m.has(ctx, l.policy.Namespace, p) }) {
				names = append(names, l.policy.Namespace+"/"+l.policy.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names), ctx.Err()
}

// members answers whether peers are in the mesh.
type members struct {
	world *world
	pods  iter.Seq[workload.Workload]
	known map[string]bool // by the peer and the namespace of its policy
}

// has reports whether a pod of the mesh is a peer of a namespace's policy; nil: everybody. If
// ctx has ended it is not looked for.
func (m *members) has(ctx context.Context, namespace string, p *Peer) bool {
	if p == nil {
		return true
	}
	text := namespace + p.text()
	if is, known := m.known[text]; known {
		return is
	}
	self := &workload.Workload{Namespace: namespace}
	if ctx.Err() != nil {
		return false
	}
	for w := range m.pods {
		if w.Meshed && !w.Terminated && p.isAny(m.world, &Question{Self: self, Peer: &w}) {
			m.known[text] = true
			return true
		}
	}
	m.known[text] = false
	return false
}

// isAny reports whether q.Peer is the peer at one of its addresses.
func (p *Peer) isAny(w *world, q *Question) bool {
	if p.Block == nil {
		return p.has(w, q)
	}
	for _, q.Addr = range q.Peer.Addrs {
		if p.has(w, q) {
			return true
		}
	}
	return false
}

// lack is peers that a policy admits, and that no policy admits with tunnels.
type lack struct {
	policy *Policy
	peers  []*Peer // nil: everybody
}

func (c *Concern) findLacking() (all []lack) {
	tunnels := [2]peerSet{c.sides[Ingress].tunnels(), c.sides[Egress].tunnels()}
	for _, p := range c.policies {
		peers := append(tunnels[Ingress].lacks(&p.Ingress), tunnels[Egress].lacks(&p.Egress)...)
		if len(peers) > 0 {
			all = append(all, lack{p, peers})
		}
	}
	return all
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

// lacks returns those whom a rule admits, but no rule their tunnels.
func (s peerSet) lacks(side *Side) (peers []*Peer) {
	if !side.Isolates || s.all {
		return nil
	}
	for _, r := range side.Rules {
		if len(r.Peers) == 0 {
			peers = append(peers, nil)
		}
		for i := range r.Peers {
			if p := &r.Peers[i]; !s.texts[p.text()] {
				peers = append(peers, p)
			}
		}
	}
	return peers
}

// text is the same of two peers that are written alike.
func (p *Peer) text() string {
	text, _ := json.Marshal(p) // of what was read from text
	return string(text)
}
