// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
)

// nobody is the end of a client whom the mesh does not know.
const nobody = "(outside)"

// name is what the page calls an end: NAMESPACE/WORKLOAD, an identity, or nobody.
func name(e fleet.End) string {
	if e.Workload != "" {
		return e.Namespace + "/" + e.Workload
	}
	return cmp.Or(e.Identity, nobody)
}

// pair is the two ends of an edge of the map.
type pair struct{ from, to string }

// others is the pair of all that a node had no row for.
var others = pair{"(others)", "(others)"}

// Row is the connections of an edge with one Service, port and way, since the nodes'
// ztunnels started.
type Row struct {
	SourceIdentity      string            `json:"sourceIdentity,omitempty"`
	DestinationIdentity string            `json:"destinationIdentity,omitempty"`
	Service             string            `json:"service,omitempty"`
	Port                uint16            `json:"port,omitempty"`
	Secured             bool              `json:"secured"`
	Reason              string            `json:"reason,omitempty"` // why not
	Open                int64             `json:"open"`
	Opened              uint64            `json:"opened"`
	Refused             map[string]uint64 `json:"refused,omitempty"`
	Sent                uint64            `json:"sent"` // bytes of those that have ended
	Received            uint64            `json:"received"`
	Last                time.Time         `json:"last,omitzero"`
}

// rowKey is a row of one node's table.
type rowKey struct {
	node, direction, service, reason string
	source, destination              fleet.End
	port                             uint16
	secured                          bool
}

func (k rowKey) pair() pair {
	if k.direction == "others" {
		return others
	}
	return pair{name(k.source), name(k.destination)}
}

func (k rowKey) row(c counts) Row {
	return Row{
		SourceIdentity: k.source.Identity, DestinationIdentity: k.destination.Identity, Service: k.service, Port: k.port, Secured: k.secured, Reason: k.reason,
		Open: c.open, Opened: c.opened, Refused: c.words, Sent: c.sent, Received: c.received, Last: c.last,
	}
}

// counts is how the counters of a row or a pair stand, or by how much they grew.
type counts struct {
	open            int64
	opened, refused uint64
	bytes           uint64
	words           map[string]uint64
	sent, received  uint64
	last            time.Time
}

// countsOf are the rows of a node. A connection inside the mesh is counted where it left.
func countsOf(n fleet.Node) map[rowKey]counts {
	all := map[rowKey]counts{}
	for _, e := range n.Dump.Edges {
		if countedElsewhere(e.Direction, e.Source) {
			continue
		}
		k := rowKey{n.Name, e.Direction, e.Service, e.Reason, e.Source, e.Destination, e.Port, e.Secured}
		all[k] = counts{e.Open, e.Opened, total(e.Refused), e.BytesSent + e.BytesRecv, e.Refused, e.BytesSent, e.BytesRecv, e.Last}
	}
	return all
}

// countedElsewhere reports whether the node of the source counts it, too. One that is no pod
// where it comes from may have no ztunnel that does.
func countedElsewhere(direction string, source fleet.End) bool {
	return direction == "inbound" && source.Identity != "" && source.Workload != ""
}

func total(words map[string]uint64) (n uint64) {
	for _, more := range words {
		n += more
	}
	return n
}

// grown is by how much counters grew; they begin anew with their ztunnel.
func grown(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

// underway is how many bytes the open connections of each pair have carried: a node counts
// those of a row when they have ended.
func underway(n fleet.Node, byUID map[string]fleet.End, owners map[netip.Addr]fleet.End) map[pair]uint64 {
	all := map[pair]uint64{}
	for uid, pod := range n.Dump.Pods {
		self, known := byUID[uid]
		if !known {
			continue
		}
		for _, c := range pod.Connections.Outbound {
			all[pair{name(self), name(peer(owners, c.ActualDst, c.DstIdentity))}] += c.BytesSent + c.BytesRecv
		}
		for _, c := range pod.Connections.Inbound {
			from := peer(owners, c.Src, c.SrcIdentity)
			if from.Workload == "" || c.SrcIdentity == "" {
				all[pair{name(from), name(self)}] += c.BytesSent + c.BytesRecv
			}
		}
	}
	return all
}

func peer(owners map[netip.Addr]fleet.End, address, identity string) fleet.End {
	if at, err := netip.ParseAddrPort(address); err == nil {
		if end, known := owners[at.Addr().Unmap()]; known {
			return end
		}
	}
	return fleet.End{Identity: identity}
}

// merge adds the counts of another row.
func (r *Row) merge(more Row) {
	r.Open, r.Opened, r.Sent, r.Received = r.Open+more.Open, r.Opened+more.Opened, r.Sent+more.Sent, r.Received+more.Received
	words := maps.Clone(r.Refused)
	for word, n := range more.Refused {
		if words == nil {
			words = map[string]uint64{}
		}
		words[word] += n
	}
	if r.Refused = words; more.Last.After(r.Last) {
		r.Last = more.Last
	}
}

// rowsOf has the rows of each of some pairs, in one pass: a viewer's edge may stand for
// thousands of pairs.
func rowsOf(all map[rowKey]counts, of map[pair]bool) map[pair][]Row {
	rows := map[pair][]Row{}
	for k, c := range all {
		if p := k.pair(); of[p] {
			rows[p] = append(rows[p], k.row(c))
		}
	}
	return rows
}

// alike has rows that differ in counts alone as one.
func alike(all []Row) []Row {
	type way struct {
		service, reason, from, to string
		port                      uint16
		secured                   bool
	}
	rows := map[way]*Row{}
	for _, row := range all {
		w := way{row.Service, row.Reason, row.SourceIdentity, row.DestinationIdentity, row.Port, row.Secured}
		if known := rows[w]; known != nil {
			known.merge(row)
		} else {
			rows[w] = &row
		}
	}
	return slices.SortedFunc(values(rows), func(a, b Row) int {
		return cmp.Or(-a.Last.Compare(b.Last), strings.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port), strings.Compare(a.Reason, b.Reason),
			strings.Compare(a.SourceIdentity, b.SourceIdentity), strings.Compare(a.DestinationIdentity, b.DestinationIdentity))
	})
}

// identities are those that were proved in rows, each once.
func identities(rows []rowKey, of func(rowKey) string) []string {
	found := map[string]bool{}
	for _, k := range rows {
		if id := of(k); id != "" {
			found[id] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}
