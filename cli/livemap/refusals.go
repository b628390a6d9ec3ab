// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const maxRefusals = 500 // kinds of them

// Refusal is the connections of one client that were refused for one reason.
type Refusal struct {
	ID          string    `json:"id"`
	From        string    `json:"from"` // as the edge has its ends
	To          string    `json:"to"`
	Source      string    `json:"source,omitempty"`      // the client's address, of the last one
	Destination string    `json:"destination,omitempty"` // as it was asked for
	Pods        [2]string `json:"pods,omitzero"`
	Identities  [2]string `json:"identities,omitzero"` // that were proved
	Service     string    `json:"service,omitempty"`
	Node        string    `json:"node"`
	Word        string    `json:"word"` // of the access record
	Policy      string    `json:"policy,omitempty"`
	Error       string    `json:"error,omitempty"`
	Count       uint64    `json:"count"`
	Fresh       uint64    `json:"fresh,omitempty"` // of them, those that a stream told and no counter has yet
	First       time.Time `json:"first"`
	Last        time.Time `json:"last"`

	spaces [2]string // namespaces of Pods, by which a Sight hides them
	asks   [2]string // who asked for what, for whoever walks it; empty: not known

	aged    uint64    // of Fresh: those that were it when nodes answered last
	counted time.Time // the last one that a counter has, by the node's clock
}

// refusals are the last ones, each kind once.
type refusals struct {
	all map[string]*Refusal
	of  map[string]int // how many are of each source

	notes map[kind]*Refusal // what destinations' nodes told since nodes answered last
	noted map[string]int    // how many of them are of each source
}

// put takes by how much a counter grew.
func (r *refusals) put(one Refusal) {
	if known := r.all[one.id()]; known != nil {
		known.count(one.Count, one.Last)
		return
	}
	one.counted = one.Last
	r.add(one)
}

func (r *Refusal) id() string {
	return strings.Join([]string{r.From, r.To, r.Service, r.Word, r.Node}, " ")
}

func (r *refusals) add(one Refusal) {
	if r.all == nil {
		r.all, r.of = map[string]*Refusal{}, map[string]int{}
	}
	if len(r.all) >= maxRefusals {
		r.drop()
	}
	one.ID = one.id()
	r.all[one.ID] = &one
	r.of[one.holder()]++
}

func (r *Refusal) holder() string { return holder(pair{from: r.From}) }

// drop lets the oldest one go of the source that has most of them, so that whoever is refused
// everywhere does not push out what others were refused.
func (r *refusals) drop() {
	source, most := "", 0
	for of, n := range r.of {
		if n > most || n == most && of < source {
			source, most = of, n
		}
	}
	var oldest *Refusal
	for _, one := range r.all {
		if (oldest == nil || one.Last.Before(oldest.Last)) && one.holder() == source {
			oldest = one
		}
	}
	r.remove(oldest.ID)
}

func (r *refusals) remove(id string) {
	source := r.all[id].holder()
	delete(r.all, id)
	if r.of[source]--; r.of[source] == 0 {
		delete(r.of, source)
	}
}

// before keeps what a node has counted before it was first asked.
func (r *refusals) before(n fleet.Node, at time.Time) {
	for k, c := range countsOf(n) {
		for word, count := range c.words {
			r.count(k, word, count, c.last, at)
		}
	}
}

// grow keeps what a node has counted since it was asked before.
func (r *refusals) grow(k rowKey, before, now counts, at time.Time) {
	for word, count := range now.words {
		if count = grown(before.words[word], count); count > 0 {
			r.count(k, word, count, now.last, at)
		}
	}
}

// count keeps refusals of which no more is known than their row.
func (r *refusals) count(k rowKey, word string, count uint64, last, at time.Time) {
	if last.After(at) {
		last = at // the node's clock is ahead
	}
	r.put(Refusal{
		From: k.pair().from, To: k.pair().to, Identities: [2]string{k.source.Identity, k.destination.Identity},
		Service: k.service, Node: k.node, Word: word, Count: count, First: last, Last: last,
	})
}

// explain takes what the nodes remember of the last connections that each pod was refused:
// by which policy, or by which error. Of the two nodes of a connection the one that has the
// policy names it.
func (r *refusals) explain(nodes []fleet.Node, m *mesh) {
	if len(r.all) == 0 {
		return
	}
	owners := m.pods()
	last := map[kind]fleet.Refused{}
	for _, n := range nodes {
		for _, pod := range n.Dump.Pods {
			for _, one := range pod.Refused {
				k := kind{owners.name(one.Source), owners.name(one.Dest), one.Result}
				known, twice := last[k]
				if better := (one.Policy != "") != (known.Policy != ""); !twice || better && one.Policy != "" || !better && one.Time.After(known.Time) {
					last[k] = one
				}
			}
		}
	}
	for _, one := range r.all {
		known, found := last[one.kind()]
		if !found {
			continue
		}
		one.Policy, one.Error, one.Pods = known.Policy, known.Error, [2]string{known.Source.Pod, known.Dest.Pod}
		one.spaces = [2]string{known.Source.Namespace, known.Dest.Namespace}
		one.Source, one.Destination = addressOf(known.Source), addressOf(known.Dest)
		one.asks = [2]string{known.Source.Name(), addressOf(fleet.RefusedEnd{Address: cmp.Or(known.Asked, known.Dest.Address)})}
	}
}

func addressOf(e fleet.RefusedEnd) string { return textOf(e.Address) }

// owned says which workload a pod is of, by NAMESPACE/POD.
type owned map[string]string

// name is what the edge calls that end.
func (o owned) name(e fleet.RefusedEnd) string {
	if owner := o[e.Namespace+"/"+e.Pod]; owner != "" {
		return name(fleet.End{Namespace: e.Namespace, Workload: owner})
	}
	return name(fleet.End{Identity: e.Identity})
}

// sorted are all of them, the last one first.
func (r *refusals) sorted() []Refusal {
	return slices.SortedFunc(values(r.all), func(a, b Refusal) int { return cmp.Or(-a.Last.Compare(b.Last), strings.Compare(a.ID, b.ID)) })
}
