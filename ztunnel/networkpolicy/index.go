// SPDX-License-Identifier: Apache-2.0

package networkpolicy

import (
	"net/netip"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// index finds out whether a rule admits a connection without asking all of them: it asks
// those that name something which the other end has, and those that name nothing.
type index struct {
	everybody  byPort                        // rules without peers
	blocks     policy.CIDRs[*byPort]         // by the block that its address is in
	namespaces map[string]*byPort            // by the namespace that it is in
	labels     map[string]map[string]*byPort // by a label of the pod: key, value
	spaces     []byValue                     // by a label of its namespace
	rest       byPort                        // pods by nothing of that
}

// byValue has admissions by the values of one label.
type byValue struct {
	key    string
	values map[string]*byPort
}

// byPort has admissions by the ports that their rules name.
type byPort struct {
	ports map[uint16][]admission
	names map[string][]admission
	rest  []admission
}

// admission is a rule with one of its peers; nil: everybody.
type admission struct {
	rule *Rule
	peer *Peer
}

// maxPorts is how many places an admission gets, so that a range of ports, or a long list,
// does not take one for each.
const maxPorts = 8

// fewAdmissions of a place are asked one after the other, whatever their ports: most places
// have one, for which maps would take five times the memory.
const fewAdmissions = 8

// newIndex is of rules of a namespace's policies, which the caller must not change any more.
func newIndex(namespace string, rules []Rule) *index {
	x := &index{namespaces: map[string]*byPort{}, labels: map[string]map[string]*byPort{}}
	often := map[key]int{} // how many peers name it
	each(rules, func(a admission) {
		for _, keys := range a.peer.names(namespace) {
			for _, k := range keys {
				often[k]++
			}
		}
	})
	places := map[key]*byPort{}
	each(rules, func(a admission) {
		switch keys := rarest(a.peer.names(namespace), often); {
		case a.peer == nil:
			x.everybody.add(a)
		case keys == nil:
			x.rest.add(a)
		default:
			for _, k := range keys {
				if places[k] == nil {
					places[k] = &byPort{}
				}
				places[k].add(a)
			}
		}
	})
	x.arrange(places)
	return x
}

// each calls do with each rule's peers.
func each(rules []Rule, do func(admission)) {
	for i := range rules {
		r := &rules[i]
		if len(r.Peers) == 0 {
			do(admission{rule: r})
		}
		for k := range r.Peers {
			do(admission{r, &r.Peers[k]})
		}
	}
}

// arrange puts the places where admits looks for them.
func (x *index) arrange(places map[key]*byPort) {
	blocks := map[netip.Prefix]*byPort{}
	spaces := map[string]map[string]*byPort{}
	for k, b := range places {
		switch k.kind {
		case ofBlock:
			blocks[k.block] = b
		case ofNamespace:
			x.namespaces[k.value] = b
		case ofLabel:
			put(x.labels, k, b)
		case ofSpace:
			put(spaces, k, b)
		}
	}
	x.blocks = policy.NewCIDRs(blocks)
	for key, values := range spaces {
		x.spaces = append(x.spaces, byValue{key, values})
	}
}

func put(into map[string]map[string]*byPort, k key, b *byPort) {
	if into[k.key] == nil {
		into[k.key] = map[string]*byPort{}
	}
	into[k.key][k.value] = b
}

func (b *byPort) add(a admission) {
	numbers, names, whole := a.rule.portsNamed()
	if !whole || b.ports == nil && len(b.rest) < fewAdmissions {
		b.rest = append(b.rest, a)
		return
	}
	if b.ports == nil {
		b.ports, b.names = map[uint16][]admission{}, map[string][]admission{}
	}
	for _, n := range numbers {
		b.ports[n] = append(b.ports[n], a)
	}
	for _, name := range names {
		b.names[name] = append(b.names[name], a)
	}
}

// portsNamed returns the ports that r admits, as numbers and as names of container ports,
// if these are all: false if it admits every port, or more than maxPorts.
func (r *Rule) portsNamed() (numbers []uint16, names []string, whole bool) {
	for _, p := range r.Ports {
		if p.Name != "" {
			names = append(names, p.Name)
			continue
		}
		for n := int(p.First); n <= int(p.Last) && len(numbers) <= maxPorts; n++ {
			numbers = append(numbers, uint16(n))
		}
	}
	return numbers, names, len(r.Ports) > 0 && len(numbers)+len(names) <= maxPorts
}

// admits reports whether a rule admits q.
func (x *index) admits(w *world, q *Question) bool {
	if x.everybody.admits(w, q) {
		return true
	}
	for b := range x.blocks.Holding(q.Addr.Unmap()) {
		if b.admits(w, q) {
			return true
		}
	}
	return q.Peer != nil && x.admitsPod(w, q)
}

func (x *index) admitsPod(w *world, q *Question) bool {
	if x.namespaces[q.Peer.Namespace].admits(w, q) {
		return true
	}
	if len(x.labels) > 0 {
		for key, value := range q.Peer.Labels.All() {
			if x.labels[key][value].admits(w, q) {
				return true
			}
		}
	}
	if len(x.spaces) > 0 {
		labels := w.namespaces[q.Peer.Namespace].Labels
		for _, s := range x.spaces {
			if value, has := labels[s.key]; has && s.values[value].admits(w, q) {
				return true
			}
		}
	}
	return x.rest.admits(w, q)
}

func (b *byPort) admits(w *world, q *Question) bool {
	if b == nil {
		return false
	}
	if anyAdmits(b.ports[q.Port], w, q) || anyAdmits(b.rest, w, q) {
		return true
	}
	if of := q.connectedTo(); of != nil && len(b.names) > 0 {
		for _, named := range of.Ports {
			if named.Port == q.Port && anyAdmits(b.names[named.Name], w, q) {
				return true
			}
		}
	}
	return false
}

func anyAdmits(all []admission, w *world, q *Question) bool {
	for i := range all {
		if a := &all[i]; a.rule.hasPort(q) && (a.peer == nil || a.peer.has(w, q)) {
			return true
		}
	}
	return false
}
