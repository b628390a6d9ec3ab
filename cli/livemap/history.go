// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const (
	keep       = time.Hour
	recent     = time.Minute // for so long an edge shows what happened to it
	maxPairs   = 10_000      // edges that are followed
	maxRows    = 100_000
	maxKept    = 60 << 20 // bytes of all frames, beside one whole scene
	sampleSize = 40       // bytes
)

// way is how connections of a pair went.
type way uint8

const (
	secured way = 1 << iota
	plaintext
)

// sample is what happened to a pair between a frame and the one before.
type sample struct {
	edge            *edge
	open            int64
	opened, refused uint32
	bytes           uint64
	ways            way
}

// frame is one moment. A pair to which nothing happened has no sample.
type frame struct {
	at      time.Time
	since   time.Duration // the frame before
	scene   *Scene
	samples []sample
	refused []*Refusal // until then, the last one first; they are not changed
	bytes   int        // that it keeps beside what it shares with the frame before
}

func (f *frame) size() int { return f.bytes + sampleSize*len(f.samples) }

// edge is a pair, while a node counts it or a frame tells of it.
type edge struct {
	pair
	name             string    // of the pair
	first, last      time.Time // of a frame that tells of it
	gone             time.Time // since when no node counts it; zero: one does
	sources, targets []string  // identities that were proved
	ways             way       // of all its rows
	opened, refused  uint64    // as the nodes count them now
	reasons          []string  // why some are plaintext
	shut             bool      // all connections were refused that were opened when one last was
}

func newEdge(p pair) *edge { return &edge{pair: p, name: p.from + "→" + p.to} }

// History is what happened in the last hour. Its zero value is empty.
type History struct {
	mu       sync.Mutex // guards what follows
	nodes    map[string]bool
	rows     map[rowKey]counts
	carried  map[string]map[pair]uint64 // by node: bytes of ended and of open connections
	edges    map[pair]*edge
	omitted  int // rows that had no room
	frames   []frame
	kept     int // bytes of all frames
	refusals refusals
	late     late
	mesh     mesh            // as a node knew it last
	domains  map[string]bool // trust domains of the nodes that answered last
	changed  chan struct{}   // closed when there is another moment
	told     chan struct{}   // closed when a node's stream told something

	audience audience
}

// Add takes what the nodes said at one time. It is called with times that grow.
func (h *History) Add(nodes []fleet.Node, at time.Time) {
	m := meshOf(nodes)
	scene := sceneOf(nodes, &m)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
	f := frame{at: at, scene: scene}
	if n := len(h.frames); n > 0 {
		f.since = at.Sub(h.frames[n-1].at)
		f.bytes = scene.share(h.frames[n-1].scene)
	}
	now := h.standing(nodes)
	grew := h.growth(nodes, now, &m, at)
	h.refusals.settle(nodes)
	h.late.settle()
	h.refusals.explain(nodes, &m)
	h.settle(now, at)
	h.recall(&f)
	for p, s := range grew {
		if e := h.edges[p]; e != nil && (s.open > 0 || s.opened > 0 || s.refused > 0 || s.bytes > 0) {
			s.edge, e.last = e, at
			if s.opened > 0 || s.refused > 0 {
				e.shut = s.refused > 0 && s.refused >= s.opened && s.open == 0
			}
			f.samples = append(f.samples, *s)
		}
	}
	h.mesh = m
	if domains := domainsOf(nodes); len(domains) > 0 {
		h.domains = domains
	}
	h.push(f)
	close(h.changed)
	h.changed = make(chan struct{})
}

// recall has a new frame keep what was refused until then.
func (h *History) recall(f *frame) {
	var before []*Refusal
	if n := len(h.frames); n > 0 {
		before = h.frames[n-1].refused
	}
	refused, bytes := h.refusals.recall(before)
	f.refused, f.bytes = refused, f.bytes+bytes
}

// domainsOf are the nodes' own trust domains: two while the mesh moves to another.
func domainsOf(nodes []fleet.Node) map[string]bool {
	all := map[string]bool{}
	for _, n := range nodes {
		if name := n.Dump.Config.TrustDomain; name != "" {
			all[name] = true
		}
	}
	return all
}

func (h *History) begin() {
	if h.changed == nil {
		h.changed, h.told = make(chan struct{}), make(chan struct{})
		h.late = late{map[string]bool{}, map[string]int{}}
	}
	if h.nodes == nil {
		h.nodes, h.rows, h.edges, h.carried = map[string]bool{}, map[rowKey]counts{}, map[pair]*edge{}, map[string]map[pair]uint64{}
	}
}

// signals are closed when there is another moment, and when a node's stream told something.
func (h *History) signals() (changed, told <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.begin()
	return h.changed, h.told
}

// standing is how all rows stand: those of a node that does not answer as they did. Rows of
// nodes that the source does not have any more go. Those that are known come first, so that
// newer ones do not push them out.
func (h *History) standing(nodes []fleet.Node) map[rowKey]counts {
	silent, now, room := map[string]bool{}, map[rowKey]counts{}, newRoom(h.edges)
	stand := func(k rowKey, c counts) {
		now[k] = c
		room.rows[holder(k.pair())]++
	}
	told := make([]map[rowKey]counts, len(nodes))
	for i, n := range nodes {
		if n.Problem != "" {
			silent[n.Name] = true
			continue
		}
		told[i] = countsOf(n)
		for k, c := range told[i] {
			if _, known := h.rows[k]; known {
				stand(k, c)
			}
		}
	}
	for k, c := range h.rows {
		if silent[k.node] {
			stand(k, c)
		}
	}
	h.omitted = 0
	for _, rows := range told {
		for k, c := range rows {
			if _, known := h.rows[k]; known {
				continue
			}
			p := k.pair()
			_, known := h.edges[p]
			if !room.forRow(p, len(now)) || !known && !room.forEdge(p, len(h.edges)) {
				h.omitted++
				continue
			}
			stand(k, c)
			if !known {
				h.edges[p] = newEdge(p)
				room.edges[holder(p)]++
			}
		}
	}
	return now
}

// growth is what happened since the nodes answered before. What a node counted before it
// was first asked is no news, unless it is of the last minute.
func (h *History) growth(nodes []fleet.Node, now map[rowKey]counts, m *mesh, at time.Time) map[pair]*sample {
	grew := map[pair]*sample{}
	of := func(p pair) *sample {
		if grew[p] == nil {
			grew[p] = &sample{}
		}
		return grew[p]
	}
	pods, owners, ended := m.byUID(), m.owners(), map[string]map[pair]uint64{}
	for k, c := range now {
		s, before := of(k.pair()), h.rows[k]
		opened, refused := grown(before.opened, c.opened), grown(before.refused, c.refused)
		if !h.nodes[k.node] {
			if opened = 0; at.Sub(c.last) >= recent {
				refused = 0
			}
		}
		if h.nodes[k.node] && refused > 0 {
			h.refusals.grow(k, before, c, at)
		}
		s.open, s.opened, s.refused = s.open+c.open, s.opened+uint32(opened), s.refused+uint32(refused)
		if c.open > 0 || opened > refused {
			s.ways |= k.way()
		}
		if ended[k.node] == nil {
			ended[k.node] = map[pair]uint64{}
		}
		ended[k.node][k.pair()] += c.bytes
	}
	for _, n := range nodes {
		if n.Problem != "" {
			continue
		}
		carried := ended[n.Name]
		if carried == nil {
			carried = map[pair]uint64{}
		}
		for p, bytes := range underway(n, pods, owners) {
			carried[p] += bytes
		}
		if before := h.carried[n.Name]; h.nodes[n.Name] {
			for p, bytes := range carried {
				if bytes > before[p] {
					of(p).bytes += bytes - before[p]
				}
			}
		} else {
			h.refusals.before(n, at)
		}
		h.carried[n.Name], h.nodes[n.Name] = carried, true
	}
	return grew
}

func (k rowKey) way() way {
	switch {
	case k.secured:
		return secured
	case k.reason != "":
		return plaintext
	}
	return 0 // refused before that was known
}

// settle keeps how the rows stand, and what that says of each edge.
func (h *History) settle(now map[rowKey]counts, at time.Time) {
	h.rows = now
	of := map[pair][]rowKey{}
	for k := range now {
		of[k.pair()] = append(of[k.pair()], k)
	}
	for p, e := range h.edges {
		rows := of[p]
		if len(rows) == 0 {
			if e.gone.IsZero() {
				e.gone = at
			}
			continue
		}
		if e.first.IsZero() {
			e.first = at
		}
		e.gone, e.ways, e.opened, e.refused = time.Time{}, 0, 0, 0
		reasons := map[string]bool{}
		for _, k := range rows {
			c := now[k]
			e.opened, e.refused = e.opened+c.opened, e.refused+c.refused
			if c.opened > c.refused {
				e.ways |= k.way()
			}
			if !k.secured && k.reason != "" {
				reasons[k.reason] = true
			}
		}
		e.sources = identities(rows, func(k rowKey) string { return k.source.Identity })
		e.targets = identities(rows, func(k rowKey) string { return k.destination.Identity })
		e.reasons = slices.Sorted(maps.Keys(reasons))
	}
}

// push appends a frame, and lets those go that are too old or too many.
func (h *History) push(f frame) {
	slices.SortFunc(f.samples, func(a, b sample) int { return strings.Compare(a.edge.name, b.edge.name) })
	f.samples = slices.Clip(f.samples)
	h.frames = append(h.frames, f)
	h.kept += f.size()
	drop := 0
	for drop < len(h.frames)-1 && (f.at.Sub(h.frames[drop].at) > keep || h.kept > maxKept) {
		h.kept -= h.frames[drop].size()
		h.frames[drop] = frame{} // what it holds goes before the array does
		drop++
	}
	h.frames = h.frames[drop:]
	for p, e := range h.edges {
		if !e.gone.IsZero() && e.last.Before(h.frames[0].at) && e.gone.Before(h.frames[0].at) {
			delete(h.edges, p)
		}
	}
	there := map[string]bool{}
	for _, n := range f.scene.Nodes {
		there[n.Name] = true
	}
	for n := range h.nodes {
		if !there[n] {
			delete(h.nodes, n)
			delete(h.carried, n)
		}
	}
}
