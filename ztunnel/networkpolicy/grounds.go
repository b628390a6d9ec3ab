// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"maps"
	"slices"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Grounds are all that a verdict hangs on, and that may change while the connection is open.
// Of one connection, equal Grounds have the same verdict.
type Grounds struct {
	concern *Concern
	labels  workload.Labels // of the other end's pod, if rules ask for some
	space   *space          // its namespace, if rules ask for labels of one; nil: it is not known
	pod     bool            // it is known which pod the other end is
	names   string          // of the port that is connected to, if rules name ports
}

// hangsOn is what the rules of one direction ask for.
type hangsOn struct{ pods, labels, spaces, names bool }

func (h *hangsOn) add(r *Rule) {
	h.names = h.names || slices.ContainsFunc(r.Ports, func(p Port) bool { return p.Name != "" })
	for _, p := range r.Peers {
		h.pods = h.pods || p.Block == nil
		h.labels = h.labels || p.Pods != nil && len(*p.Pods) > 0
		h.spaces = h.spaces || p.Namespaces != nil && len(*p.Namespaces) > 0
	}
}

// Grounds returns those that q has now.
func (s *Set) Grounds(q *Question) Grounds {
	w := s.world.Load()
	return w.grounds(w.concern(q.Self), q)
}

func (w *world) grounds(c *Concern, q *Question) Grounds {
	if c == nil {
		return Grounds{}
	}
	g, h := Grounds{concern: c}, &c.sides[q.Direction].hangsOn
	if h.names {
		g.names = q.portNames()
	}
	if q.Peer == nil || !h.pods {
		return g
	}
	g.pod = true
	if h.labels {
		g.labels = q.Peer.Labels
	}
	if h.spaces {
		g.space = w.space(q.Peer.Namespace)
	}
	return g
}

// portNames are those by which the pod that is connected to knows the port.
func (q *Question) portNames() (names string) {
	of := q.connectedTo()
	if of == nil {
		return ""
	}
	for _, named := range of.Ports {
		switch {
		case named.Port != q.Port:
		case names == "":
			names = named.Name
		default:
			names += "\x00" + named.Name
		}
	}
	return names
}

// space is a namespace for as long as its labels are the same.
type space struct{ labels map[string]string }

// spaces are the namespaces that somebody asked for.
type spaces struct {
	mu    sync.Mutex // guards known
	known map[string]*space
}

// space returns nil for a namespace that is not known.
func (w *world) space(name string) *space {
	namespace, known := w.namespaces[name]
	if !known {
		return nil
	}
	w.spaces.mu.Lock()
	defer w.spaces.mu.Unlock()
	s := w.spaces.known[name]
	if s == nil {
		s = &space{namespace.Labels}
		w.spaces.known[name] = s
	}
	return s
}

// keep takes over those whose labels are the same.
func (w *world) keep(before *spaces) {
	before.mu.Lock()
	defer before.mu.Unlock()
	for name, s := range before.known {
		if namespace, known := w.namespaces[name]; known && maps.Equal(namespace.Labels, s.labels) {
			w.spaces.known[name] = s
		}
	}
}
