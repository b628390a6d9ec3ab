// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/explain"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

const maxVerdicts = 8 // of an edge: one for each port

// Detail is more of one edge.
type Detail struct {
	ID       string    `json:"id"`
	Rows     []Row     `json:"rows"`
	Verdicts []Verdict `json:"verdicts"`
	Hour     []Point   `json:"hour"`
}

// Point is what happened on an edge between two moments.
type Point struct {
	At      time.Time `json:"at"`
	Bytes   uint64    `json:"bytes"` // a second
	Open    int64     `json:"open"`
	Refused uint32    `json:"refused"`
}

// Verdict is what the policies that are in force now say of one more connection.
type Verdict struct {
	Pod     string `json:"pod"`
	Port    uint16 `json:"port"`
	Allowed string `json:"allowed"` // yes, no or open
	By      string `json:"by,omitempty"`
	Why     string `json:"why"`
	HeldBy  string `json:"heldBy"` // the node whose policies these are
}

// Detail is what a viewer may know of an edge; false: of none such.
func (h *History) Detail(s Sight, id string) (Detail, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.frames) == 0 {
		return Detail{}, false
	}
	s = h.local(s)
	edges := h.visible(len(h.frames)-1, s)
	i := slices.IndexFunc(edges, func(v *shown) bool { return v.name == id })
	if i < 0 {
		return Detail{}, false
	}
	d := Detail{ID: id, Rows: []Row{}, Verdicts: []Verdict{}, Hour: h.hour(edges[i].parts)}
	pairs := map[pair]bool{}
	for _, part := range edges[i].parts {
		pairs[part.pair] = true
	}
	rows := rowsOf(h.rows, pairs)
	for _, part := range edges[i].parts {
		d.Rows = append(d.Rows, s.rows(rows[part.pair])...)
		if (s.seesEnd(part.from) || part.from == nobody) && s.seesEnd(part.to) {
			d.Verdicts = append(d.Verdicts, s.verdicts(verdicts(h.mesh, part.pair, alike(rows[part.pair])))...)
		}
	}
	d.Rows = alike(d.Rows)
	return d, true
}

func (s Sight) verdicts(all []Verdict) []Verdict {
	for i := range all {
		if !s.All {
			if all[i].HeldBy = ""; !s.ofSight(all[i].By) {
				all[i].By, all[i].Why = "another namespace", ""
			}
			if !s.mayRead(all[i].Why) { // what allows has no By
				all[i].Why = "a policy of another namespace says so"
			}
		}
	}
	return all
}

// hour is what happened on some edges at each moment that is kept, together.
func (h *History) hour(of []*edge) []Point {
	const few = 16 // for more of them each sample is looked at once
	set := map[*edge]bool{}
	for _, e := range of {
		set[e] = true
	}
	points := make([]Point, 0, len(h.frames))
	for _, f := range h.frames {
		p := Point{At: f.at}
		add := func(s sample) {
			p.Open, p.Refused = p.Open+s.open, p.Refused+s.refused
			if seconds := f.since.Seconds(); seconds > 0 {
				p.Bytes += uint64(float64(s.bytes) / seconds)
			}
		}
		if len(of) <= few {
			for _, e := range of {
				if i, found := slices.BinarySearchFunc(f.samples, e.name, func(s sample, name string) int { return strings.Compare(s.edge.name, name) }); found {
					add(f.samples[i])
				}
			}
		} else {
			for _, s := range f.samples {
				if set[s.edge] {
					add(s)
				}
			}
		}
		points = append(points, p)
	}
	return points
}

// verdicts asks the policies about one pod of the destination and each port.
func verdicts(m mesh, of pair, rows []Row) []Verdict {
	all := []Verdict{}
	pods := map[string]workload.Workload{} // of both ends, the first of each
	for _, w := range m.workloads {
		end := name(endOf(w))
		if _, known := pods[end]; !known && !w.Terminated && len(w.Addrs) > 0 && (end == of.from || end == of.to) {
			pods[end] = w
		}
	}
	to, known := pods[of.to]
	if !known {
		return all
	}
	asked := map[uint16]bool{}
	for _, r := range rows {
		if r.Port == 0 || asked[r.Port] || len(all) >= maxVerdicts {
			continue
		}
		asked[r.Port] = true
		from := explain.Source{Addr: netip.Addr{}}
		if pod, meshed := pods[of.from]; meshed {
			if from.Addr = pod.Addrs[0]; pod.Meshed {
				from.ID, from.Pod = pod.ID, &pod
			}
		}
		a := explain.Explain(m.policies, explain.Connection{Dst: to, Port: r.Port, From: &from})
		all = append(all, Verdict{Pod: to.String(), Port: r.Port, Allowed: a.Allowed.String(), By: a.By, Why: a.Why, HeldBy: m.node})
	}
	return all
}
