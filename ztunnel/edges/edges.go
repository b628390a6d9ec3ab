// SPDX-License-Identifier: Apache-2.0

// Package edges counts who talks to whom: one row for connections of the same two
// ends, Service and port, secured in the same way.
//
// The table is bounded, for each workload of the node, in each direction, with each of its
// peers, and as a whole, since a client chooses the ports that it asks for. What does not
// fit counts in one row, Others. A connection costs one look-up when it opens and some
// additions when it closes, and no memory.
package edges

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxRows    = 4096
	maxOfLocal = 256 // rows of a workload of this node in one direction
	maxOfPair  = 32  // of them, with one other end: it may be who chooses the ports
	reserved   = 16  // that a workload gets however full the table is

	// keep is how long a row stays without connections when another needs its place.
	keep       = 10 * time.Minute
	sweepEvery = 10 * time.Second
)

// Directions of connections, as a pod of this node sees them.
const (
	Outbound = "outbound"
	Inbound  = "inbound"
)

// MutualTLS is Edge.Secured of connections whose ends proved themselves.
const MutualTLS = "mutual_tls"

// End is one of the two, as far as it is known.
type End struct {
	Namespace string `json:"namespace,omitempty"`
	Workload  string `json:"workload,omitempty"` // its Deployment or the like: names for people
	Identity  string `json:"identity,omitempty"` // proven SPIFFE ID; empty: none
}

// Edge is what the connections of one row have in common.
type Edge struct {
	Direction           string
	Source, Destination End
	// ServiceNamespace and Service were asked for; empty: an address.
	ServiceNamespace, Service string
	Port                      uint16 // of the destination's app
	Secured                   string // MutualTLS, or why the connections are in plaintext; empty: refused before that was known
}

// side is one direction of a workload of this node.
type side struct {
	direction string
	end       End
}

func (e *Edge) local() side {
	if e.Direction == Outbound {
		return side{e.Direction, e.Source}
	}
	return side{e.Direction, e.Destination}
}

// pair is the two ends of an Edge.
type pair struct {
	direction           string
	source, destination End
}

func (e *Edge) pair() pair { return pair{e.Direction, e.Source, e.Destination} }

// Others is the row of all that has no row of its own.
var Others = Edge{Direction: "others"}

// Row is what happened to the connections of an Edge.
type Row struct {
	edge                   Edge
	opened, sent, received atomic.Uint64
	open, last             atomic.Int64 // connections; when one opened or closed, in Unix nanoseconds

	mu      sync.Mutex // guards refused; a leaf
	refused map[string]uint64
}

// Table is the rows of a node. Its zero value is empty; nil counts nothing.
type Table struct {
	mu     sync.RWMutex // guards what follows; a row is dropped under its write lock
	rows   map[Edge]*Row
	locals map[side]int // rows of each
	pairs  map[pair]int
	others Row
	swept  time.Time
}

// Open counts a connection in the row of its edge, which Close must be called of.
func (t *Table) Open(e *Edge, now time.Time) *Row {
	if t == nil {
		return nil
	}
	t.mu.RLock()
	r := t.rows[*e]
	if r != nil {
		r.begin(now)
	}
	t.mu.RUnlock()
	if r == nil {
		r = t.openNew(e, now)
	}
	return r
}

func (t *Table) openNew(e *Edge, now time.Time) *Row {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rows[*e]
	if r == nil {
		r = t.add(e, now)
	}
	r.begin(now)
	return r
}

// add returns a new row, or that of the others; mu is held for writing.
func (t *Table) add(e *Edge, now time.Time) *Row {
	if !t.hasRoom(e) && now.Sub(t.swept) >= sweepEvery {
		t.swept = now
		t.sweep(now)
	}
	if !t.hasRoom(e) {
		return &t.others
	}
	if t.rows == nil {
		t.rows, t.locals, t.pairs = map[Edge]*Row{}, map[side]int{}, map[pair]int{}
	}
	r := &Row{edge: *e}
	t.rows[*e] = r
	t.locals[e.local()]++
	t.pairs[e.pair()]++
	return r
}

func (t *Table) hasRoom(e *Edge) bool {
	n := t.locals[e.local()]
	return n < maxOfLocal && t.pairs[e.pair()] < maxOfPair && (len(t.rows) < maxRows || n < reserved)
}

// sweep drops rows that had no connection for a while. Their counts go to the others, so
// that the sum of all rows never falls; mu is held for writing.
func (t *Table) sweep(now time.Time) {
	for e, r := range t.rows {
		if r.open.Load() > 0 || now.Sub(time.Unix(0, r.last.Load())) < keep {
			continue
		}
		t.others.take(r)
		delete(t.rows, e)
		release(t.locals, e.local())
		release(t.pairs, e.pair())
	}
}

func release[K comparable](rows map[K]int, of K) {
	if rows[of]--; rows[of] == 0 {
		delete(rows, of)
	}
}

func (r *Row) begin(now time.Time) {
	r.opened.Add(1)
	r.open.Add(1)
	r.last.Store(now.UnixNano())
}

// Close counts how a connection ended, and what it carried as the pod of this node sees
// it. refused is the word for why, or empty. Nil counts nothing.
func (r *Row) Close(refused string, sent, received uint64, now time.Time) {
	if r == nil {
		return
	}
	r.sent.Add(sent)
	r.received.Add(received)
	if refused != "" {
		r.refuse(refused, 1)
	}
	r.last.Store(now.UnixNano())
	r.open.Add(-1) // last: from then on the row may be dropped
}

func (r *Row) refuse(word string, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		r.refused = map[string]uint64{}
	}
	r.refused[word] += n
}

// take adds what from counted, which counts nothing more.
func (r *Row) take(from *Row) {
	r.opened.Add(from.opened.Load())
	r.sent.Add(from.sent.Load())
	r.received.Add(from.received.Load())
	r.last.Store(max(r.last.Load(), from.last.Load()))
	for word, n := range from.refused {
		r.refuse(word, n)
	}
}

// Shown is a row in /config_dump.
type Shown struct {
	Direction   string            `json:"direction"` // outbound, inbound or others
	Source      End               `json:"source"`
	Destination End               `json:"destination"`
	Service     string            `json:"service,omitempty"` // NAMESPACE/NAME
	Port        uint16            `json:"port,omitempty"`
	Secured     bool              `json:"secured"`
	Reason      string            `json:"reason,omitempty"` // why not
	Opened      uint64            `json:"opened"`
	Open        int64             `json:"open"`
	Refused     map[string]uint64 `json:"refused,omitempty"` // of those opened, by the word of the access record
	BytesSent   uint64            `json:"bytesSent"`         // of those that have ended
	BytesRecv   uint64            `json:"bytesRecv"`
	Last        time.Time         `json:"last"` // one opened or closed
}

// Rows are all of the table, in a stable order, the others last.
func (t *Table) Rows() []Shown {
	t.mu.RLock()
	rows := slices.Collect(maps.Values(t.rows))
	t.mu.RUnlock()
	out := make([]Shown, 0, len(rows)+1)
	for _, r := range rows {
		out = append(out, r.shown(r.edge))
	}
	slices.SortFunc(out, func(a, b Shown) int {
		return cmp.Or(strings.Compare(a.Direction, b.Direction), a.Source.compare(b.Source), a.Destination.compare(b.Destination),
			strings.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port), strings.Compare(a.Reason, b.Reason))
	})
	if t.others.opened.Load() > 0 {
		out = append(out, t.others.shown(Others))
	}
	return out
}

func (e End) compare(other End) int {
	return cmp.Or(strings.Compare(e.Namespace, other.Namespace), strings.Compare(e.Workload, other.Workload), strings.Compare(e.Identity, other.Identity))
}

func (r *Row) shown(e Edge) Shown {
	s := Shown{
		Direction: e.Direction, Source: e.Source, Destination: e.Destination, Port: e.Port, Secured: e.Secured == MutualTLS,
		Opened: r.opened.Load(), Open: r.open.Load(), BytesSent: r.sent.Load(), BytesRecv: r.received.Load(), Last: time.Unix(0, r.last.Load()).UTC(),
	}
	if e.Service != "" {
		s.Service = e.ServiceNamespace + "/" + e.Service
	}
	if !s.Secured {
		s.Reason = e.Secured
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Refused = maps.Clone(r.refused)
	return s
}
