// SPDX-License-Identifier: Apache-2.0

package records

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Comparison is what policies say of recorded connections before and after a change.
type Comparison struct {
	Judged    uint64 `json:"judged"`
	Refused   Edges  `json:"newlyRefused"`
	Allowed   Edges  `json:"newlyAllowed"`
	Unchanged Edges  `json:"unchanged"`
	// Otherwise ended in another way than the policies before the change say: they were
	// recorded under other policies.
	Otherwise uint64            `json:"endedOtherwise"`
	NotJudged map[string]uint64 `json:"notJudged"` // by why
}

// Edges are connections by who connects to what.
type Edges struct {
	Connections uint64 `json:"connections"`
	Edges       []Edge `json:"edges"`  // most connections first
	Others      uint64 `json:"others"` // connections of edges for which there was no room

	rows map[edge]*Edge
}

// Edge is connections of one source to one port of a workload.
type Edge struct {
	Source      string    `json:"source"`           // a SPIFFE ID, or plaintext
	Address     string    `json:"address,omitzero"` // of a source in plaintext
	Workload    string    `json:"workload"`         // the source's pod, as the record has it
	Destination string    `json:"destination"`      // namespace/owner
	Port        uint16    `json:"port"`
	Connections uint64    `json:"connections"`
	Last        time.Time `json:"last"` // when the last one ended
	By          string    `json:"by"`   // the object that refuses it, after the change or before
}

// edge is what makes one.
type edge struct {
	source, address, destination string
	port                         uint16
}

// Plaintext is the Source of whoever proved no identity.
const Plaintext = "plaintext"

// maxEdges bounds memory: whoever connects in plaintext may have any address.
const maxEdges = 10000

// Question is which pods' connections are asked about, and by what.
type Question struct {
	Pods          []workload.Workload // that there are
	Namespace     string              // of the pods that are asked about; empty: all
	Before, After policy.Objects
}

// Compare reads records and asks the policies before and after about each.
func (q Question) Compare(in io.Reader) (*Comparison, error) {
	c := &Comparison{NotJudged: map[string]uint64{}}
	byName := map[name]workload.Workload{}
	for _, w := range q.Pods {
		if !w.Terminated {
			byName[name{w.Namespace, w.Name}] = w
		}
	}
	was, is := policy.NewSet(), policy.NewSet()
	was.Replace(q.Before)
	is.Replace(q.After)
	skip := func(why string, n uint64) { c.NotJudged[why] += n }
	err := read(in, func(r *record) {
		w, there := byName[r.pod]
		switch {
		case q.Namespace != "" && r.pod.namespace != q.Namespace:
		case !there:
			skip(gone, 1)
		case !w.Meshed:
			skip(outside, 1)
		case r.id.IsZero() && !r.plaintext:
			skip(early, 1)
		default:
			request := policy.Request{Src: r.src, Peer: r.id, Dst: w, Addr: r.target.Addr().Unmap(), Port: r.target.Port()}
			c.judged(r, w, was.AllowInbound(request), is.AllowInbound(request))
		}
	}, skip)
	for _, e := range []*Edges{&c.Refused, &c.Allowed, &c.Unchanged} {
		e.sort()
	}
	return c, err
}

func (c *Comparison) judged(r *record, w workload.Workload, was, is error) {
	c.Judged++
	if refused := r.word == denied || r.word == changed; refused != (was != nil) {
		c.Otherwise++
	}
	switch {
	case was == nil && is != nil:
		c.Refused.add(r, w, is)
	case was != nil && is == nil:
		c.Allowed.add(r, w, was)
	default:
		c.Unchanged.add(r, w, is)
	}
}

func (e *Edges) add(r *record, w workload.Workload, refused error) {
	e.Connections++
	key := edge{source: r.id.String(), destination: w.Namespace + "/" + cmp.Or(w.Owner, w.Name), port: r.target.Port()}
	if r.id.IsZero() {
		key.source, key.address = Plaintext, r.src.String()
	}
	row := e.rows[key]
	if row == nil {
		if len(e.rows) == maxEdges {
			e.Others++
			return
		}
		if e.rows == nil {
			e.rows = map[edge]*Edge{}
		}
		row = &Edge{Source: key.source, Address: key.address, Destination: key.destination, Port: key.port}
		e.rows[key] = row
	}
	row.Connections++
	if row.Workload == "" || r.ended.After(row.Last) {
		row.Workload = r.from
	}
	if r.ended.After(row.Last) {
		row.Last = r.ended
	}
	var who *policy.Denied
	if errors.As(refused, &who) {
		row.By = who.Policy
	}
}

func (e *Edges) sort() {
	e.Edges = []Edge{}
	for _, row := range slices.Collect(maps.Values(e.rows)) {
		e.Edges = append(e.Edges, *row)
	}
	slices.SortFunc(e.Edges, func(a, b Edge) int {
		return cmp.Or(-cmp.Compare(a.Connections, b.Connections), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Address, b.Address),
			cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Port, b.Port))
	})
}
