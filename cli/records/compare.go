// SPDX-License-Identifier: Apache-2.0

package records

import (
	"cmp"
	"errors"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/networkpolicy"
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
	Namespace string // of the pods that are asked about; empty: all
	Views     []View // one at least
}

// View is what one node holds, or what a directory does. Of a pod, its own node's view
// decides, as it does in the mesh; the first that has the pod if there is none.
type View struct {
	Node          string              // empty: it is not a node's
	Pods          []workload.Workload // that there are
	Before, After policy.Objects
	Network       *networkpolicy.Set // in force before and after; nil: they are not known
}

// judge is a View that is asked.
type judge struct {
	was, is *policy.Set
	network *networkpolicy.Set
	pods    map[name]workload.Workload
}

func (v *View) judge() *judge {
	j := &judge{was: policy.NewSet(), is: policy.NewSet(), network: v.Network, pods: map[name]workload.Workload{}}
	j.was.Replace(v.Before)
	j.is.Replace(v.After)
	for _, w := range v.Pods {
		if !w.Terminated {
			j.pods[name{w.Namespace, w.Name}] = w
		}
	}
	return j
}

// decides returns, for each pod, who judges its connections.
func (q Question) decides() map[name]*judge {
	by, own := map[name]*judge{}, map[name]bool{}
	for i := range q.Views {
		v := &q.Views[i]
		j := v.judge()
		for pod, w := range j.pods {
			if is := v.Node != "" && w.Node == v.Node; by[pod] == nil || is && !own[pod] {
				by[pod], own[pod] = j, is
			}
		}
	}
	return by
}

// Compare reads records and asks the policies before and after about each.
func (q Question) Compare(in io.Reader) (*Comparison, error) {
	c := &Comparison{NotJudged: map[string]uint64{}}
	by := q.decides()
	skip := func(why string, n uint64) { c.NotJudged[why] += n }
	err := read(in, func(r *record) {
		j := by[r.pod]
		switch {
		case q.Namespace != "" && r.pod.namespace != q.Namespace:
		case j == nil:
			skip(gone, 1)
		case !j.pods[r.pod].Meshed:
			skip(outside, 1)
		case r.id.IsZero() && !r.plaintext:
			skip(early, 1)
		default:
			c.ask(j, r, skip)
		}
	}, skip)
	for _, e := range []*Edges{&c.Refused, &c.Allowed, &c.Unchanged} {
		e.sort()
	}
	return c, err
}

// ask asks the policies, and NetworkPolicies about what they let in.
func (c *Comparison) ask(j *judge, r *record, skip func(why string, n uint64)) {
	w := j.pods[r.pod]
	request := policy.Request{Src: r.src, Peer: r.id, Dst: w, Addr: r.target.Addr().Unmap(), Port: r.target.Port()}
	was, is := j.was.AllowInbound(request), j.is.AllowInbound(request)
	if was == nil || is == nil {
		no, known := j.askNetwork(r, &w)
		if !known {
			skip(stranger, 1)
			return
		}
		if no != nil {
			was, is = cmp.Or(was, error(no)), cmp.Or(is, error(no))
		}
	}
	c.judged(r, w, was, is)
}

// askNetwork asks the NetworkPolicies of both ends, as far as they are enforced. known is
// false if they refuse a source of which the pod is not known: they might know it.
func (j *judge) askNetwork(r *record, w *workload.Workload) (no *policy.Denied, known bool) {
	if j.network == nil || r.plaintext {
		return nil, true
	}
	in := networkpolicy.Question{Direction: networkpolicy.Ingress, Self: w, Addr: r.src, Port: r.target.Port()}
	if source, is := j.pods[r.source]; is && source.Meshed && source.ID == r.id {
		in.Peer = &source
		out := networkpolicy.Question{Direction: networkpolicy.Egress, Self: in.Peer, Peer: w, Addr: r.target.Addr().Unmap(), Port: r.target.Port()}
		if no, mode := j.network.Ask(&out); no != nil && mode == networkpolicy.Enforce {
			return no, true
		}
	}
	no, mode := j.network.Ask(&in)
	if no == nil || mode != networkpolicy.Enforce {
		return nil, true
	}
	return no, in.Peer != nil
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
