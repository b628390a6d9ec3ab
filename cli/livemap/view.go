// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

const sparkFrames = 60

// States of an edge: what its connections of the last minute were. If there were none: what
// the last ones were, if all were refused, else all that nodes counted of it.
const (
	Locked    = "locked"    // mutual TLS
	Plaintext = "plaintext" // some were
	Refused   = "refused"   // some were
	Unknown   = "unknown"
)

// Graph is the mesh at one moment, as one viewer sees it.
type Graph struct {
	At         time.Time `json:"at,omitzero"`   // zero: the nodes were not asked yet
	From       time.Time `json:"from,omitzero"` // the oldest moment that is kept
	Topology   string    `json:"topology"`      // of this moment; changes with what is there
	Nodes      []Node    `json:"nodes"`
	Silent     int       `json:"silent"` // nodes that did not answer
	Namespaces []string  `json:"namespaces"`
	All        bool      `json:"all"` // the viewer sees all of them

	Workloads    []Workload    `json:"workloads"`
	Edges        []Edge        `json:"edges"`
	Certificates []Certificate `json:"certificates"`
	Refusals     []Refusal     `json:"refusals"`
	Omitted      int           `json:"omitted"` // rows and workloads that had no room
}

// Edge is who talks to whom.
type Edge struct {
	ID      string   `json:"id"`
	From    string   `json:"from"`
	To      string   `json:"to"`
	Sources []string `json:"sources"` // identities that were proved
	Targets []string `json:"targets"`
	Reasons []string `json:"reasons,omitempty"` // why some connections are plaintext
	Total   uint64   `json:"total"`             // connections that were opened since the ztunnels started
	Spark   []uint64 `json:"spark"`             // bytes a second, the last one now; empty: none
	Now
}

// Now is what happens on an edge.
type Now struct {
	ID      string  `json:"id,omitempty"`
	State   string  `json:"state"`
	Active  bool    `json:"active"`  // in the last minute
	Open    int64   `json:"open"`    // connections
	Opened  float64 `json:"opened"`  // connections a second
	Refused uint64  `json:"refused"` // connections in the last minute
	Bytes   uint64  `json:"bytes"`   // a second, both ways
}

// Tick is what happens at one moment, on all edges on which something does.
type Tick struct {
	At       time.Time `json:"at"`
	From     time.Time `json:"from"`
	Topology string    `json:"topology"`
	Edges    []Now     `json:"edges"`
	Refusals []Refusal `json:"refusals"`
	Late     int       `json:"late"` // as of News
}

// window is what happened to an edge up to a moment.
type window struct {
	open    int64
	opened  uint32
	refused uint64
	bytes   uint64
	ways    way
	active  bool
}

// Graph is what a viewer sees of the last moment until at; zero: of the last one.
func (h *History) Graph(s Sight, at time.Time) Graph {
	h.mu.Lock()
	defer h.mu.Unlock()
	s = h.local(s)
	i := h.index(at)
	g := Graph{Nodes: []Node{}, Namespaces: []string{}, Workloads: []Workload{}, Edges: []Edge{}, Certificates: []Certificate{}, Refusals: []Refusal{}, All: s.All}
	if i < 0 {
		return g
	}
	f := &h.frames[i]
	g.At, g.From, g.Omitted = f.at, h.frames[0].at, h.omitted
	g.setScene(f.scene, s)
	sparks := h.sparks(i)
	for _, e := range h.visible(i, s) {
		g.Edges = append(g.Edges, Edge{
			ID: e.name, From: e.from, To: e.to, Sources: s.identities(e.sources), Targets: s.identities(e.targets),
			Reasons: e.reasons, Total: e.edge.opened, Spark: e.spark(sparks), Now: e.now(f.since),
		})
	}
	refused := h.refusals.sorted() // streams may be ahead of moments
	if !at.IsZero() {
		refused = f.recalled()
	}
	g.Refusals, g.Topology = s.refusals(refused), h.topology(i, s)
	return g
}

// Tick is what a viewer sees happen at the last moment; false: there is none yet.
func (h *History) Tick(s Sight) (Tick, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.frames) == 0 {
		return Tick{}, false
	}
	return h.tick(h.local(s)), true
}

func (h *History) tick(s Sight) Tick {
	i := len(h.frames) - 1
	f := &h.frames[i]
	t := Tick{At: f.at, From: h.frames[0].at, Topology: h.topology(i, s), Edges: []Now{}, Refusals: s.refusals(h.refusals.sorted()), Late: h.lateFor(s)}
	for _, e := range h.visible(i, s) {
		if now := e.now(f.since); now.Active {
			now.ID = e.name
			t.Edges = append(t.Edges, now)
		}
	}
	return t
}

// Namespaces are those of the last moment's workloads.
func (h *History) Namespaces() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.frames); n > 0 {
		return h.frames[n-1].scene.namespaces
	}
	return []string{}
}

// Fresh reports whether the nodes were asked within two minutes.
func (h *History) Fresh(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.frames)
	return n > 0 && now.Sub(h.frames[n-1].at) < 2*time.Minute
}

// local is a viewer's sight, with the trust domains in which it is one.
func (h *History) local(s Sight) Sight {
	s.domains = h.domains
	return s
}

// index is the last frame until at, or the oldest one.
func (h *History) index(at time.Time) int {
	if at.IsZero() {
		return len(h.frames) - 1
	}
	i, found := slices.BinarySearchFunc(h.frames, at, func(f frame, at time.Time) int { return f.at.Compare(at) })
	if !found {
		i--
	}
	return min(max(i, 0), len(h.frames)-1)
}

// shown is an edge as a viewer sees it: all those together that look alike to them.
type shown struct {
	edge
	window
	parts []*edge
}

// visible are the edges of a moment that a viewer sees an end of, in a stable order.
func (h *History) visible(i int, s Sight) []*shown {
	at, windows, all := h.frames[i].at, h.windows(i), map[pair]*shown{}
	for _, e := range h.edges {
		if e.first.IsZero() || e.first.After(at) || !e.gone.IsZero() && !e.gone.After(at) {
			continue
		}
		if !s.seesEnd(e.from) && !s.seesEnd(e.to) {
			continue
		}
		p := s.pair(e.pair)
		if all[p] == nil {
			all[p] = &shown{edge: *newEdge(p)}
		}
		all[p].add(e, windows[e])
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *shown) int { return cmp.Or(strings.Compare(a.from, b.from), strings.Compare(a.to, b.to)) })
}

func (v *shown) add(e *edge, w window) {
	v.parts = append(v.parts, e)
	v.edge.opened, v.edge.refused, v.edge.ways = v.edge.opened+e.opened, v.edge.refused+e.refused, v.edge.ways|e.ways
	v.shut = v.shut || e.shut
	v.sources, v.targets, v.reasons = merged(v.sources, e.sources), merged(v.targets, e.targets), merged(v.reasons, e.reasons)
	v.window = window{v.open + w.open, v.window.opened + w.opened, v.window.refused + w.refused, v.bytes + w.bytes, v.window.ways | w.ways, v.active || w.active}
}

func merged(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func (v *shown) spark(sparks map[*edge][]uint64) []uint64 {
	sum := []uint64{}
	for _, e := range v.parts {
		for i, n := range sparks[e] {
			if len(sum) == 0 {
				sum = make([]uint64, len(sparks[e]))
			}
			sum[i] += n
		}
	}
	return sum
}

func (h *History) windows(i int) map[*edge]window {
	all := map[*edge]window{}
	until := h.frames[i].at
	for j := i; j >= 0 && until.Sub(h.frames[j].at) < recent; j-- {
		for _, s := range h.frames[j].samples {
			w := all[s.edge]
			if w.active = true; j == i {
				w.open, w.opened, w.bytes = s.open, s.opened, s.bytes
			}
			w.refused, w.ways = w.refused+uint64(s.refused), w.ways|s.ways
			all[s.edge] = w
		}
	}
	return all
}

func (v *shown) now(since time.Duration) Now {
	w, e := v.window, &v.edge
	n := Now{Active: w.active, Open: w.open, Refused: w.refused, State: Unknown}
	if seconds := since.Seconds(); seconds > 0 {
		n.Opened, n.Bytes = float64(w.opened)/seconds, uint64(float64(w.bytes)/seconds)
	}
	ways := w.ways
	if ways == 0 {
		ways = e.ways
	}
	switch {
	case w.refused > 0, ways == 0 && e.refused > 0, !w.active && e.shut:
		n.State = Refused
	case ways&plaintext != 0:
		n.State = Plaintext
	case ways&secured != 0:
		n.State = Locked
	}
	return n
}

func (h *History) sparks(i int) map[*edge][]uint64 {
	all := map[*edge][]uint64{}
	first := max(0, i-sparkFrames+1)
	for j := first; j <= i; j++ {
		seconds := h.frames[j].since.Seconds()
		for _, s := range h.frames[j].samples {
			if s.bytes == 0 || seconds <= 0 {
				continue
			}
			if all[s.edge] == nil {
				all[s.edge] = make([]uint64, i-first+1)
			}
			all[s.edge][j-first] = uint64(float64(s.bytes) / seconds)
		}
	}
	return all
}

// setScene shows what is in the namespaces that the viewer sees.
func (g *Graph) setScene(scene *Scene, s Sight) {
	for _, n := range scene.Nodes {
		if n.Problem != "" {
			g.Silent++
		}
		if s.All {
			g.Nodes = append(g.Nodes, *n)
		}
	}
	for _, w := range scene.Workloads {
		if !s.Sees(w.Namespace) {
			continue
		}
		if i, there := slices.BinarySearch(g.Namespaces, w.Namespace); !there {
			g.Namespaces = slices.Insert(g.Namespaces, i, w.Namespace)
		}
		if len(g.Workloads) >= maxWorkloads { // of the viewer's own
			g.Omitted++
			continue
		}
		g.Workloads = append(g.Workloads, s.workload(*w))
	}
	for _, c := range scene.Certificates {
		if s.seesEnd(c.Identity) {
			g.Certificates = append(g.Certificates, *c)
		}
	}
}

// topology is the same as long as a viewer sees the same workloads and edges.
func (h *History) topology(i int, s Sight) string {
	f := &h.frames[i]
	sum := fnv.New64a()
	for _, w := range f.scene.Workloads {
		if s.Sees(w.Namespace) {
			sum.Write([]byte(w.ID))
			for _, n := range [...]int{w.Pods, w.Intended, w.Enrolled, w.Verified, len(w.Problems)} {
				sum.Write(binary.AppendVarint(nil, int64(n)))
			}
			sum.Write([]byte(w.Mode + w.ModeBy + strings.Join(w.Problems, "\n")))
		}
	}
	for _, e := range h.visible(i, s) {
		sum.Write([]byte(e.name + "\n"))
	}
	for _, n := range f.scene.Nodes {
		sum.Write([]byte(n.Name + n.CA + n.Problem))
	}
	return strconv.FormatUint(sum.Sum64(), 16)
}
