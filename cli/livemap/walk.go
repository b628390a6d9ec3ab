// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/cli/why"
)

const (
	maxWalks    = 4 // at a time: each asks nodes for all that they know
	walkWithin  = 20 * time.Second
	walkRest    = 5 * time.Second // of a viewer, after each
	maxAskedAll = 8               // nodes; of more, those of both ends are asked
	walkIsBusy  = "a walk is under way for you or was a moment ago, or four are: try again in 5 s"
)

// Walker walks a connection between two ends, each as culvert why takes them, by what nodes
// say now. The nodes are those of both ends, as far as that is known.
type Walker func(ctx context.Context, from, to string, nodes []string) (why.Answer, error)

// Walk returns a Walker that asks the nodes of a source. It tries nothing: no tunnel, and no
// connection to an app.
func Walk(source fleet.Source) Walker {
	return func(ctx context.Context, from, to string, ends []string) (why.Answer, error) {
		nodes, err := fleet.Nodes(ctx, &someNodes{source, ends})
		if err != nil {
			return why.Answer{}, err
		}
		if !slices.ContainsFunc(nodes, func(n fleet.Node) bool { return n.Problem == "" }) {
			return why.Answer{}, errors.New("no node answered")
		}
		w := &why.World{Nodes: nodes, Now: time.Now(), CAs: func(ctx context.Context) []fleet.CA {
			cas, _ := fleet.CAs(ctx, source) // without them the nodes' word remains
			return cas
		}}
		return w.Explain(ctx, from, to)
	}
}

// someNodes is a source of few nodes: each has all of the mesh in its answer.
type someNodes struct {
	fleet.Source
	names []string
}

// Ztunnels is part of fleet.Source.
func (s *someNodes) Ztunnels(ctx context.Context) ([]fleet.Target, error) {
	all, err := s.Source.Ztunnels(ctx)
	if err != nil || len(all) <= maxAskedAll {
		return all, err
	}
	some := slices.DeleteFunc(slices.Clone(all), func(t fleet.Target) bool { return !slices.Contains(s.names, t.Name) })
	if len(some) == 0 {
		some = all[:1]
	}
	return some, nil
}

// walks counts those who wait for an answer.
type walks struct {
	mu    sync.Mutex
	all   int
	rests map[string]time.Time // until when, by viewer, if viewers have names; zero: it waits for an answer
}

func (w *walks) enter(viewer string, now time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.rests, func(_ string, until time.Time) bool { return !until.IsZero() && !now.Before(until) })
	if _, rests := w.rests[viewer]; w.all >= maxWalks || rests {
		return false
	}
	if w.rests == nil {
		w.rests = map[string]time.Time{}
	}
	if w.all++; viewer != "" {
		w.rests[viewer] = time.Time{}
	}
	return true
}

func (w *walks) leave(viewer string, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.all--; viewer != "" {
		w.rests[viewer] = now.Add(walkRest)
	}
}

// Walked is why a connection is refused now, as a viewer may read it.
type Walked struct {
	Verdict why.Verdict `json:"verdict"`
	EndsAt  string      `json:"endsAt,omitempty"`
	From    string      `json:"from"`
	To      string      `json:"to"`
	At      time.Time   `json:"at"`
	Steps   []why.Step  `json:"steps"`
	Silent  int         `json:"silent"` // nodes that did not answer
}

// walk answers why a refusal that the viewer sees would be one now.
func (s *Server) walk(w http.ResponseWriter, r *http.Request, sight Sight, viewer string) {
	if s.Walk == nil {
		http.Error(w, "nobody walks here", http.StatusNotFound)
		return
	}
	one, err := s.History.walkable(sight, r.URL.Query().Get("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	if !s.walks.enter(viewer, time.Now()) {
		http.Error(w, walkIsBusy, http.StatusServiceUnavailable)
		return
	}
	defer func() { s.walks.leave(viewer, time.Now()) }()
	ctx, cancel := context.WithTimeout(r.Context(), walkWithin)
	defer cancel()
	a, err := s.Walk(ctx, one.from, one.to, one.nodes)
	switch {
	case ctx.Err() != nil:
		http.Error(w, fmt.Sprintf("the nodes took longer than %v", walkWithin), http.StatusGatewayTimeout)
	case err != nil:
		text := "the walk failed, for a reason that only those may read who see all namespaces"
		if one.sight.All {
			text = err.Error()
		}
		http.Error(w, text, http.StatusBadGateway)
	case !one.mayHear(a):
		http.Error(w, errNotYours.Error(), http.StatusNotFound)
	default:
		answer(w, r, one.walked(a, time.Now()))
	}
}

// walkable is a refusal whose ends both are the viewer's.
type walkable struct {
	sight    Sight
	from, to string
	nodes    []string        // of the two ends
	hidden   map[string]bool // nodes whose names the viewer does not read
}

var (
	errNoRefusal = errors.New("there is no such refusal")
	errNotYours  = errors.New("one end of it is not yours to see")
	errForgotten = errors.New("the nodes do not remember its addresses any more: culvert why SRC DST:PORT asks by name")
)

// walkable finds a refusal by its ID, as the viewer has it.
func (h *History) walkable(s Sight, id string) (*walkable, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.frames) == 0 {
		return nil, errNoRefusal
	}
	s = h.local(s)
	all := s.refusals(h.refusals.sorted())
	i := slices.IndexFunc(all, func(r Refusal) bool { return r.ID == id })
	if i < 0 {
		return nil, errNoRefusal
	}
	r := &all[i]
	for end, name := range []string{r.From, r.To} {
		if name == elsewhere || r.spaces[end] != "" && !s.Sees(r.spaces[end]) {
			return nil, errNotYours
		}
	}
	one := &walkable{sight: s, from: r.asks[0], to: r.asks[1]}
	if one.from == "" || one.to == "" {
		return nil, errForgotten
	}
	for i := range r.Pods {
		if node := h.mesh.nodeOf(r.spaces[i], r.Pods[i]); node != "" {
			one.nodes = append(one.nodes, node)
		}
	}
	for _, name := range h.nodesOfTheHour() {
		one.hide(name)
	}
	return one, nil
}

// nodesOfTheHour are the names of nodes in all moments that are kept.
func (h *History) nodesOfTheHour() []string {
	all := map[string]bool{}
	var before []*Node
	for _, f := range h.frames {
		now := f.scene.Nodes
		if same := len(now) == len(before) && (len(now) == 0 || &now[0] == &before[0]); same { // they share it
			continue
		}
		for _, n := range now {
			all[n.Name] = true
		}
		before = now
	}
	return slices.Collect(maps.Keys(all))
}

// hide keeps the name of a node from the viewer, unless an end of the refusal is there.
func (one *walkable) hide(node string) {
	if one.hidden == nil {
		one.hidden = map[string]bool{}
	}
	if node != "" && !slices.Contains(one.nodes, node) {
		one.hidden[node] = true
	}
}

// nodeOf is where a pod runs; empty: it is not known.
func (m *mesh) nodeOf(namespace, pod string) string {
	for _, w := range m.workloads {
		if w.Namespace == namespace && w.Name == pod && !w.Terminated {
			return w.Node
		}
	}
	return ""
}

// mayHear reports whether a walk leads from the viewer's to the viewer's: an end without a
// name is walked by its address, which may be that of another namespace's Service.
func (one *walkable) mayHear(a why.Answer) bool {
	ends := []string{a.Source, a.Destination}
	for _, step := range a.Steps {
		if step.Step == why.StepDestination || step.Step == why.StepEndpoint {
			ends = append(ends, step.Says, step.Change)
		}
	}
	return !slices.ContainsFunc(ends, func(end string) bool { return !one.sight.mayRead(end) })
}

// walked is an answer without what the viewer must not read. The walk may know of nodes that
// came after the last moment.
func (one *walkable) walked(a why.Answer, now time.Time) Walked {
	for _, node := range a.Nodes {
		one.hide(node)
	}
	out := Walked{Verdict: a.Verdict, EndsAt: a.EndsAt, From: one.from, To: one.to, At: now.UTC(), Steps: []why.Step{}, Silent: len(a.Unanswered)}
	for _, step := range a.Steps {
		out.Steps = append(out.Steps, one.step(step))
	}
	return out
}

func (one *walkable) step(step why.Step) why.Step {
	if one.sight.All {
		return step
	}
	const hides = "what it says names another namespace"
	if step.By = ""; step.Says != "" {
		step.Says = one.sight.text(step.Says, one.hidden, hides)
	}
	step.Change = one.sight.text(step.Change, one.hidden, "")
	step.Evidence = slices.DeleteFunc(slices.Clone(step.Evidence), func(e string) bool { return one.sight.text(e, one.hidden, "") == "" })
	return step
}

// text is what a viewer may read of a text that is written for those who see all, or instead.
func (s Sight) text(text string, hidden map[string]bool, instead string) string {
	if s.All {
		return text
	}
	if !s.mayRead(text) {
		return instead
	}
	for node := range hidden {
		if strings.Contains(text, node) {
			return instead
		}
	}
	return text
}
