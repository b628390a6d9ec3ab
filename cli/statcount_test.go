// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var (
	webEnd = fleet.End{Namespace: "shop", Workload: "web", Identity: webID}
	dbEnd  = fleet.End{Namespace: "shop", Workload: "db", Identity: dbID}
)

// samples are ten seconds of a mesh of two nodes: web's and db's.
func samples() (before, after sample) {
	at := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	pods := []workload.Workload{
		{Namespace: "shop", Name: "web-1", Owner: "web", Meshed: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.7")}},
		{Namespace: "shop", Name: "db-1", Owner: "db", Meshed: true, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.8")}},
		{Namespace: "shop", Name: "db-2", Owner: "db", Addrs: []netip.Addr{netip.MustParseAddr("fd00::8")}},
	}
	node := func(name string, edges []fleet.Edge, open ...fleet.Connection) fleet.Node {
		n := fleet.Node{Target: fleet.Target{Name: name}}
		n.Dump.Edges, n.Dump.Workloads = edges, pods
		n.Dump.Pods = map[string]fleet.Pod{"uid": {Connections: fleet.Connections{Outbound: open}}}
		return n
	}
	edge := func(direction string, src, dst fleet.End, opened uint64, sent, received uint64) fleet.Edge {
		return fleet.Edge{Direction: direction, Source: src, Destination: dst, Service: "shop/db", Secured: src.Identity != "", Opened: opened, BytesSent: sent, BytesRecv: received}
	}
	open := func(sent, received uint64) fleet.Connection {
		return fleet.Connection{Direction: "outbound", Src: "10.0.0.7:4711", OriginalDst: "10.96.0.10:5432", Dst: "10.0.0.8:5432", Service: "shop/db", SrcIdentity: webID, DstIdentity: dbID, BytesSent: sent, BytesRecv: received}
	}
	first := edge("outbound", webEnd, dbEnd, 100, 1000, 5000)
	first.Refused = map[string]uint64{"denied": 7}
	then := edge("outbound", webEnd, dbEnd, 120, 3000, 45000)
	then.Refused, then.Open = map[string]uint64{"denied": 8, "limit": 1}, 3
	gone := edge("outbound", webEnd, fleet.End{}, 9, 0, 0) // had no connection for long
	others := fleet.Edge{Direction: "others", Opened: 4}
	othersThen := fleet.Edge{Direction: "others", Opened: 4 + 9 + 2}
	before = sample{at, []fleet.Node{
		node("node1", []fleet.Edge{first, gone, others}, open(500, 1000)),
		node("node2", []fleet.Edge{edge("inbound", webEnd, dbEnd, 100, 0, 0), edge("inbound", fleet.End{}, dbEnd, 50, 0, 0)}),
	}}
	after = sample{at.Add(10 * time.Second), []fleet.Node{
		node("node1", []fleet.Edge{then, othersThen}, open(700, 2000)),
		// It began anew, and counts from nothing.
		node("node2", []fleet.Edge{edge("inbound", webEnd, dbEnd, 120, 0, 0), edge("inbound", fleet.End{}, dbEnd, 5, 10, 20)}),
		node("node3", []fleet.Edge{edge("outbound", webEnd, dbEnd, 1000, 0, 0)}), // what it counted before is not known
	}}
	return before, after
}

func TestStatCountsEachConnectionOnce(t *testing.T) {
	before, after := samples()
	for _, tc := range []struct {
		name string
		k    counting
		want string
	}{
		{"servers", counting{kind: "workloads"}, `
NAME       MESHED   OPENED   REFUSED   SUCCESS   CONN/S   TCP_CONN   READ/S   WRITE/S   SECURED   REFUSED BY
(others)   -        2        0         100.00%   0.2      0          0B       0B        0.00%     -
shop/db    1/2      25       2         92.00%    2.5      3          222B     4.1kB     80.00%    denied 1, limit 1
`},
		{"clients", counting{kind: "workloads", clients: true, from: "shop"}, `
NAME       MESHED   OPENED   REFUSED   SUCCESS   CONN/S   TCP_CONN   READ/S   WRITE/S   SECURED   REFUSED BY
shop/web   1/1      20       2         90.00%    2.0      3          4.1kB    220B      100.00%   denied 1, limit 1
`},
		{"services", counting{kind: "services", to: "shop/db"}, `
NAME      MESHED   OPENED   REFUSED   SUCCESS   CONN/S   TCP_CONN   READ/S   WRITE/S   SECURED   REFUSED BY
shop/db   -        25       2         92.00%    2.5      3          222B     4.1kB     80.00%    denied 1, limit 1
`},
		{"namespaces", counting{kind: "namespaces", ns: "shop"}, `
NAME   MESHED   OPENED   REFUSED   SUCCESS   CONN/S   TCP_CONN   READ/S   WRITE/S   SECURED   REFUSED BY
shop   2/3      25       2         92.00%    2.5      3          222B     4.1kB     80.00%    denied 1, limit 1
`},
		{"nobody", counting{kind: "workloads", to: "shop/web"}, `
NAME   MESHED   OPENED   REFUSED   SUCCESS   CONN/S   TCP_CONN   READ/S   WRITE/S   SECURED   REFUSED BY
`},
	} {
		var out bytes.Buffer
		if err := countTable(&out, tc.k.between(before, after), true); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + out.String(); got != tc.want {
			t.Errorf("%s:%s\nwant:%s", tc.name, got, tc.want)
		}
	}
}

func TestTopHasTheBusiestFirstAndNoneThatIsIdle(t *testing.T) {
	k := counting{busiest: orders["refused"], most: 2}
	rows := k.first([]counts{{Name: "idle"}, {Name: "a", Opened: 9}, {Name: "b", Refused: 1, Opened: 1}, {Name: "c", Open: 1}})
	if len(rows) != 2 || rows[0].Name != "b" || rows[1].Name != "a" {
		t.Errorf("%+v", rows)
	}
}

func TestSizesOfBytes(t *testing.T) {
	for bytes, want := range map[float64]string{0: "0B", 999: "999B", 1000: "1.0kB", 99900: "99.9kB", 123456: "123kB", 5e6: "5.0MB", 7.25e9: "7.2GB", 3e12: "3.0TB"} {
		if got := size(bytes); got != want {
			t.Errorf("%v: %s, want %s", bytes, got, want)
		}
	}
}
