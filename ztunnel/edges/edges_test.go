// SPDX-License-Identifier: Apache-2.0

package edges

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var noon = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func end(name string) End {
	return End{Namespace: "shop", Workload: name, Identity: "spiffe://cluster.local/ns/shop/sa/" + name}
}

func toDB(from End, port uint16) *Edge {
	return &Edge{Direction: Outbound, Source: from, Destination: end("db"), ServiceNamespace: "shop", Service: "db", Port: port, Secured: MutualTLS}
}

func TestARowCountsTheConnectionsOfItsEdge(t *testing.T) {
	var table Table
	first, second := table.Open(toDB(end("web"), 5432), noon), table.Open(toDB(end("web"), 5432), noon)
	second.Close("denied", 0, 0, noon)
	first.Close("", 5, 7, noon.Add(time.Second))
	table.Open(&Edge{Direction: Inbound, Destination: end("web"), Port: 80, Secured: "permissive"}, noon)
	want := []Shown{
		{Direction: Inbound, Destination: end("web"), Port: 80, Reason: "permissive", Opened: 1, Open: 1, Last: noon},
		{Direction: Outbound, Source: end("web"), Destination: end("db"), Service: "shop/db", Port: 5432, Secured: true,
			Opened: 2, Refused: map[string]uint64{"denied": 1}, BytesSent: 5, BytesRecv: 7, Last: noon.Add(time.Second)},
	}
	if diff := cmp.Diff(want, table.Rows()); diff != "" {
		t.Error(diff)
	}
}

// sum is the connections of all rows.
func sum(rows []Shown) (opened uint64) {
	for _, r := range rows {
		opened += r.Opened
	}
	return opened
}

// One pod that asks for all ports takes no row from another, and grows nothing.
func TestNoClientGrowsTheTable(t *testing.T) {
	var table Table
	for port := range 65535 {
		table.Open(toDB(end("scanner"), uint16(port+1)), noon).Close("dial", 0, 0, noon)
	}
	table.Open(toDB(end("web"), 5432), noon)
	rows := table.Rows()
	if len(rows) != maxOfPair+2 || sum(rows) != 65536 {
		t.Fatalf("%d rows of %d connections, want %d of 65536", len(rows), sum(rows), maxOfPair+2)
	}
	others := rows[len(rows)-1]
	if others.Direction != "others" || others.Opened != 65535-maxOfPair || others.Refused["dial"] != 65535-maxOfPair || others.Open != 0 {
		t.Errorf("the others are %+v", others)
	}
}

// Whoever tries all ports of a pod hides neither another client of it nor where it connects.
func TestNoClientTakesTheRowsOfItsServer(t *testing.T) {
	var table Table
	at := func(from End, port uint16) *Edge {
		return &Edge{Direction: Inbound, Source: from, Destination: end("db"), Port: port, Secured: MutualTLS}
	}
	for port := range 65535 {
		table.Open(at(end("scanner"), uint16(port+1)), noon).Close("denied", 0, 0, noon)
	}
	table.Open(at(end("web"), 5432), noon)
	for client := range 300 {
		table.Open(at(end(fmt.Sprint("many-", client)), 1), noon).Close("denied", 0, 0, noon)
	}
	table.Open(&Edge{Direction: Outbound, Source: end("db"), Destination: end("thief"), Port: 443, Secured: MutualTLS}, noon)
	seen := map[string]bool{}
	for _, r := range table.Rows() {
		seen[r.Source.Workload+" "+r.Destination.Workload] = true
	}
	if !seen["web db"] || !seen["db thief"] {
		t.Errorf("rows of %v", seen)
	}
}

func TestManyPodsTogetherAreBounded(t *testing.T) {
	var table Table
	for pod := range 1000 {
		for port := range 50 {
			table.Open(toDB(end(fmt.Sprint("pod-", pod)), uint16(port+1)), noon)
		}
	}
	most := maxRows + 1000*reserved
	if rows := table.Rows(); len(rows) > most || len(rows) < maxRows || sum(rows) != 50000 {
		t.Errorf("%d rows of %d connections, want %d to %d of 50000", len(rows), sum(rows), maxRows, most)
	}
	last := 0
	for _, r := range table.Rows() {
		if r.Source.Workload == "pod-999" {
			last++
		}
	}
	if last != reserved {
		t.Errorf("the last one has %d rows, want %d", last, reserved)
	}
}

// What nobody uses any more makes room, but no open connection loses its row, and the sum
// never falls.
func TestOldRowsMakeRoomForNewOnes(t *testing.T) {
	var table Table
	open := table.Open(toDB(end("web"), 1), noon)
	for port := range maxOfPair - 1 {
		table.Open(toDB(end("web"), uint16(port+2)), noon).Close("", 1, 1, noon)
	}
	later := noon.Add(keep)
	table.Open(toDB(end("web"), 9999), later)
	open.Close("", 1, 1, later)
	rows := table.Rows()
	if len(rows) != 3 || rows[0].Port != 1 || rows[0].BytesSent != 1 || rows[1].Port != 9999 || rows[2].Opened != maxOfPair-1 || sum(rows) != maxOfPair+1 {
		t.Errorf("%+v", rows)
	}
}

func TestRowsAreCountedWhileOthersAreDropped(t *testing.T) {
	var table Table
	var all sync.WaitGroup
	for pod := range 4 {
		all.Go(func() {
			for i := range 2000 {
				now := noon.Add(time.Duration(i) * time.Minute)
				table.Open(toDB(end(string(rune('a'+pod))), uint16(i)), now).Close("dial", 1, 1, now)
				if i%500 == 0 {
					table.Rows()
				}
			}
		})
	}
	all.Wait()
	if rows := table.Rows(); sum(rows) != 8000 {
		t.Errorf("%d connections, want 8000", sum(rows))
	}
}

func TestNoTableCountsNothing(t *testing.T) {
	var none *Table
	none.Open(toDB(end("web"), 1), noon).Close("dial", 1, 1, noon)
}

// A connection that opens and closes, in a table that is full.
func BenchmarkConnection(b *testing.B) {
	var table Table
	for pod := range 200 {
		for port := range maxOfPair {
			table.Open(toDB(end(fmt.Sprint("pod-", pod)), uint16(port+1)), noon)
		}
	}
	for name, e := range map[string]*Edge{"row": toDB(end("pod-0"), 7), "others": toDB(end("pod-0"), 9999)} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				table.Open(e, noon).Close("", 1, 1, noon)
			}
		})
	}
}

func TestAConnectionTakesNoMemory(t *testing.T) {
	var table Table
	e := toDB(end("web"), 5432)
	table.Open(e, noon)
	if n := testing.AllocsPerRun(100, func() { table.Open(e, noon).Close("", 1, 1, noon) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
