// SPDX-License-Identifier: Apache-2.0

package livemap

import "strings"

// room shares the tables of edges and rows among the sources of connections. A source may add
// to what it has while that is less than a quarter of what is free. So one that dials everybody
// gets a fifth of a table, the next one a fifth of the rest, and others still find room.
type room struct {
	edges map[string]int // by holder
	rows  map[string]int
}

func newRoom(edges map[pair]*edge) *room {
	r := &room{edges: map[string]int{}, rows: map[string]int{}}
	for p := range edges {
		r.edges[holder(p)]++
	}
	return r
}

// holder is whose share a pair is of. A partner may have as many identities as it likes: they
// share one.
func holder(p pair) string {
	if id, proved := strings.CutPrefix(p.from, "spiffe://"); proved {
		domain, _, _ := strings.Cut(id, "/")
		return "spiffe://" + domain
	}
	return p.from
}

func (r *room) forEdge(p pair, edges int) bool { return 4*r.edges[holder(p)] < maxPairs-edges }
func (r *room) forRow(p pair, rows int) bool   { return 4*r.rows[holder(p)] < maxRows-rows }
