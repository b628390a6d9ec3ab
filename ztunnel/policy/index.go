// SPDX-License-Identifier: Apache-2.0

package policy

import "github.com/culvert-mesh/culvert/identity"

// index finds a rule that matches without asking all of them: it asks those that name
// something that the connection has, and those that name nothing.
type index struct {
	principals, trustDomains, namespaces byWord

	accounts      map[identity.ServiceAccount]*byPort
	sources, dsts *blocks[*byPort]
	rest          byPort
}

// byWord has rules by the patterns of one field that they name.
type byWord struct {
	exact    map[string]*byPort
	prefixes *beginnings[*byPort]
	suffixes *endings[*byPort]
}

// byPort has rules by the ports that they name.
type byPort struct {
	ports map[uint16][]*rule
	rest  []*rule
}

// maxPorts is how many places a rule gets for each thing that it names, so that one
// with thousands of both does not take the product of them.
const maxPorts = 8

func newIndex(rules []*rule) *index {
	x := &index{}
	often := map[key]int{} // how many rules name it
	for _, r := range rules {
		for k := range r.keys() {
			often[k]++
		}
	}
	places := map[key]*byPort{}
	for _, r := range rules {
		ports := r.portsNamed()
		named := r.rarest(often)
		if len(named) == 0 {
			x.rest.add(r, ports)
			continue
		}
		if len(ports) > maxPorts {
			ports = nil
		}
		for k := range named {
			if places[k] == nil {
				places[k] = &byPort{}
			}
			places[k].add(r, ports)
		}
	}
	x.arrange(places)
	return x
}

// arrange puts the places where find looks for them.
func (x *index) arrange(places map[key]*byPort) {
	x.accounts = map[identity.ServiceAccount]*byPort{}
	blocks := map[field]map[block]*byPort{ofSource: {}, ofDestination: {}}
	for k, b := range places {
		switch k.field {
		case ofAccount:
			x.accounts[k.account] = b
		case ofSource, ofDestination:
			blocks[k.field][k.block] = b
		}
	}
	x.sources, x.dsts = newNest(blocks[ofSource]), newNest(blocks[ofDestination])
	x.principals, x.trustDomains, x.namespaces = wordsOf(ofPrincipal, places), wordsOf(ofTrustDomain, places), wordsOf(ofNamespace, places)
}

func wordsOf(f field, places map[key]*byPort) (w byWord) {
	w.exact = map[string]*byPort{}
	prefixes, suffixes := map[beginning]*byPort{}, map[ending]*byPort{}
	for k, b := range places {
		switch {
		case k.field != f:
		case k.kind == prefix:
			prefixes[beginning(k.word)] = b
		case k.kind == suffix:
			suffixes[ending(k.word)] = b
		default:
			w.exact[k.word] = b
		}
	}
	w.prefixes, w.suffixes = newNest(prefixes), newNest(suffixes)
	return w
}

func (b *byPort) add(r *rule, ports set[uint16]) {
	if len(ports) == 0 {
		b.rest = append(b.rest, r)
		return
	}
	if b.ports == nil {
		b.ports = map[uint16][]*rule{}
	}
	for port := range ports {
		b.ports[port] = append(b.ports[port], r)
	}
}

// find returns a rule that matches, or nil.
func (x *index) find(q *question) *rule {
	if q.principal != "" {
		if r := x.ofPeer(q); r != nil {
			return r
		}
	}
	if r := findIn(x.sources, q.src, q); r != nil {
		return r
	}
	if r := findIn(x.dsts, q.dst, q); r != nil {
		return r
	}
	return x.rest.find(q)
}

func (x *index) ofPeer(q *question) *rule {
	if r := x.principals.find(q.principal, q); r != nil {
		return r
	}
	if r := x.accounts[q.account].find(q); r != nil {
		return r
	}
	if r := x.namespaces.find(q.account.Namespace, q); r != nil {
		return r
	}
	return x.trustDomains.find(q.trustDomain, q)
}

func (w *byWord) find(word string, q *question) *rule {
	if word == "" { // which no pattern matches
		return nil
	}
	if r := w.exact[word].find(q); r != nil {
		return r
	}
	if r := findIn(w.prefixes, word, q); r != nil {
		return r
	}
	return findIn(w.suffixes, word, q)
}

// findIn asks the rules of all extents that hold v.
func findIn[E extent[E, V], V any](n *nest[E, V, *byPort], v V, q *question) *rule {
	for i := n.innermost(v); i >= 0; i = n.outer[i] {
		if r := n.each[i].find(q); r != nil {
			return r
		}
	}
	return nil
}

func (b *byPort) find(q *question) *rule {
	if b == nil {
		return nil
	}
	for _, r := range b.ports[q.port] {
		if r.matches(q) {
			return r
		}
	}
	for _, r := range b.rest {
		if r.matches(q) {
			return r
		}
	}
	return nil
}

// field is one of what rules name, beside ports.
type field uint8

const (
	ofPrincipal field = iota
	ofAccount
	ofNamespace
	ofTrustDomain
	ofSource
	ofDestination
)

// key is one value of a field.
type key struct {
	field   field
	kind    patternKind
	word    string
	account identity.ServiceAccount
	block   block
}
