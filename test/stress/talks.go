// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// talks is all talks that are under way, and what was found wrong.
type talks struct {
	seed     uint64
	ledger   *ledger
	weather  *weather
	progress atomic.Int64 // bytes that apps read

	mu      sync.Mutex
	open    map[netip.AddrPort]*talk
	number  int
	faults  map[string]int // by what it is
	words   map[string]int // results of outbound records
	missing int            // records
	beside  int            // talks that were ok beside a tunnel
	strong  int            // talks that nothing but the apps could disturb
	bytes   int64
}

func newTalks(seed uint64, l *ledger) *talks {
	return &talks{seed: seed, ledger: l, open: make(map[netip.AddrPort]*talk), words: make(map[string]int), faults: make(map[string]int)}
}

// told is how many faults of a kind are told in full.
const told = 3

// fault reports what must not be.
func (ts *talks) fault(kind, format string, args ...any) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.faults[kind]++; ts.faults[kind] <= told {
		fmt.Fprintf(os.Stderr, "FAULT at %s: %s: %s\n", stamp(time.Now()), kind, fmt.Sprintf(format, args...))
	}
}

// at is the talk with that destination, nil if it is over.
func (ts *talks) at(dst netip.AddrPort) *talk {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.open[dst]
}

const firstPort, ports = 20000, 40000

// begin registers a talk with an app behind addr.
func (ts *talks) begin(p plan, addr netip.Addr) *talk {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := &talk{plan: p, talks: ts, begun: time.Now()}
	for t.dst = (netip.AddrPort{}); !t.dst.IsValid() || ts.open[t.dst] != nil; {
		ts.number++
		t.dst = netip.AddrPortFrom(addr, uint16(firstPort+ts.number%ports))
	}
	t.number = ts.number
	ts.open[t.dst] = t
	return t
}

// end takes a talk off that was judged.
func (ts *talks) end(t *talk) {
	ts.ledger.forget(t.dst)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	delete(ts.open, t.dst)
}

// finished is how many are over.
func (ts *talks) finished() int {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.number - len(ts.open)
}

func (ts *talks) all() []*talk {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return slices.Collect(maps.Values(ts.open))
}
