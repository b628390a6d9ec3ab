// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"net/netip"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

const (
	maxNotes = 200     // of what the destination's node says, until nodes answer
	maxError = 1 << 10 // bytes that are kept of an error that a stream tells
)

// What a stream tells of a refusal is shown at once, and is Fresh until the node's counters
// have it:
//
//	hear    one more is Fresh
//	count   counters have grown: as many are Fresh no more, and only the rest is new
//	settle  nodes have answered. What was Fresh at the answer before, which was asked for
//	        after it was told, was not counted: it goes
//
// So each is shown once, and counters have the last word.

// kind is whose connections were refused with which word, whoever says so.
type kind struct{ from, to, word string }

func (r *Refusal) kind() kind { return kind{r.From, r.To, r.Word} }

// hear takes what a node's stream tells of a refusal.
func (r *refusals) hear(node string, e *fleet.Event, at time.Time) {
	if e.Result == "" || e.Result == "ok" || e.Result == "reset" { // as nodes count
		return
	}
	one := told(node, e, at)
	if countedElsewhere(e.Direction, endOfEvent(&e.Source)) {
		r.note(&one)
		return
	}
	if known := r.all[one.id()]; known != nil {
		if e.Time.IsZero() || known.counted.Before(e.Time) {
			known.Count, known.Fresh, known.Last = known.Count+1, known.Fresh+1, later(known.Last, one.Last)
			known.learn(&one)
		}
		return
	}
	if note := r.notes[one.kind()]; note != nil {
		one.learn(note)
	}
	one.Fresh = 1
	r.add(one)
}

// note keeps what the destination's node says of a connection that the source's node counts:
// it may know the policy, and it speaks first. One source has a part of the room.
func (r *refusals) note(one *Refusal) {
	for _, known := range r.all {
		if known.kind() == one.kind() {
			known.learn(one)
		}
	}
	if r.notes == nil {
		r.notes, r.noted = map[kind]*Refusal{}, map[string]int{}
	}
	if r.notes[one.kind()] == nil {
		if 4*r.noted[one.holder()] >= maxNotes-len(r.notes) {
			return
		}
		r.noted[one.holder()]++
	}
	r.notes[one.kind()] = one
}

// told is what an event says, as a refusal of one connection.
func told(node string, e *fleet.Event, at time.Time) Refusal {
	last := e.Time
	if last.IsZero() || last.After(at) {
		last = at // the node's clock is ahead
	}
	client := fleet.RefusedEnd{Address: e.Source.Address, Namespace: e.Source.Namespace, Pod: e.Source.Pod}
	return Refusal{
		From: name(endOfEvent(&e.Source)), To: name(endOfEvent(&e.Destination)), Source: textOf(e.Source.Address), Destination: textOf(e.Destination.Address),
		Pods: [2]string{e.Source.Pod, e.Destination.Pod}, Identities: [2]string{e.Source.Identity, e.Destination.Identity}, Service: e.Service, Node: node,
		Word: e.Result, Policy: e.Policy, Error: strings.ToValidUTF8(e.Error[:min(len(e.Error), maxError)], ""), Count: 1, First: last, Last: last,
		spaces: [2]string{e.Source.Namespace, e.Destination.Namespace}, asks: [2]string{client.Name(), textOf(e.Destination.Address)},
	}
}

func endOfEvent(e *fleet.EventEnd) fleet.End {
	return fleet.End{Namespace: e.Namespace, Workload: e.Workload, Identity: e.Identity}
}

func textOf(address netip.AddrPort) string {
	if !address.IsValid() {
		return ""
	}
	return address.String()
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// learn takes what another node or a later connection tells, unless only r knows the policy.
func (r *Refusal) learn(one *Refusal) {
	if r.Policy != "" && one.Policy == "" {
		return
	}
	r.Policy, r.Error, r.Pods, r.spaces, r.asks = one.Policy, one.Error, one.Pods, one.spaces, one.asks
	r.Source, r.Destination = one.Source, one.Destination
}

// count takes by how much a node's counter of it grew, of which it may have told.
func (r *Refusal) count(n uint64, last time.Time) {
	heard := min(r.Fresh, n)
	r.Fresh, r.aged = r.Fresh-heard, r.aged-min(r.aged, heard)
	r.Count, r.Last, r.counted = r.Count+n-heard, later(r.Last, last), later(r.counted, last)
}

// settle is called when counters of all nodes that answer were taken.
func (r *refusals) settle(nodes []fleet.Node) {
	r.notes, r.noted = nil, nil
	silent := map[string]bool{}
	for _, n := range nodes {
		silent[n.Name] = silent[n.Name] || n.Problem != ""
	}
	for id, one := range r.all {
		if one.Fresh == 0 || silent[one.Node] {
			continue
		}
		one.Count, one.Fresh = one.Count-one.aged, one.Fresh-one.aged
		if one.aged = one.Fresh; one.Count == 0 {
			r.remove(id)
		}
	}
}

// News is what the nodes' streams tell, and their counters do not yet.
type News struct {
	Refusals []Refusal `json:"refusals"`
	Late     int       `json:"late"` // nodes whose refusals come with their answers only, for those who see all
}

func (h *History) news(s Sight) News {
	n := News{Refusals: []Refusal{}, Late: h.lateFor(s)}
	for _, one := range s.refusals(h.refusals.sorted()) {
		if one.Fresh > 0 {
			n.Refusals = append(n.Refusals, one)
		}
	}
	return n
}

// lateFor is 0 for those who do not see all: whether a node has much to refuse may be of
// another namespace.
func (h *History) lateFor(s Sight) int {
	if !s.All {
		return 0
	}
	return h.late.nodes()
}
