// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func end(namespace, workload string) fleet.End {
	return fleet.End{Namespace: namespace, Workload: workload, Identity: "spiffe://cluster.local/ns/" + namespace + "/sa/" + workload}
}

// toDB is a row of shop/web to shop/db.
func toDB(opened uint64, open int64, denied, bytes uint64, last time.Time) fleet.Edge {
	e := fleet.Edge{Direction: "outbound", Source: end("shop", "web"), Destination: end("shop", "db"), Service: "shop/db", Port: 5432, Secured: true,
		Opened: opened, Open: open, BytesSent: bytes, Last: last}
	if denied > 0 {
		e.Refused = map[string]uint64{"denied": denied}
	}
	return e
}

func fromOutside(opened, denied uint64, last time.Time) fleet.Edge {
	e := fleet.Edge{Direction: "inbound", Destination: fleet.End{Namespace: "shop", Workload: "db"}, Port: 5432, Reason: "permissive", Opened: opened, Last: last}
	if denied > 0 {
		e.Refused = map[string]uint64{"denied": denied}
	}
	return e
}

func node(name string, edges ...fleet.Edge) fleet.Node {
	n := fleet.Node{Dump: fleet.Dump{Edges: edges}}
	n.Name, n.Dump.Config.NodeName, n.Dump.Config.TrustDomain = name, name, "cluster.local"
	for _, w := range []string{"web", "db"} {
		n.Dump.Workloads = append(n.Dump.Workloads, workload.Workload{UID: w, Namespace: "shop", Name: w + "-1", Owner: w, Node: name, Meshed: true})
	}
	return n
}

var all = Sight{All: true}

func edgeOf(t *testing.T, g Graph, id string) Edge {
	t.Helper()
	for _, e := range g.Edges {
		if e.ID == id {
			return e
		}
	}
	t.Fatalf("no edge %s among %d", id, len(g.Edges))
	return Edge{}
}

func TestAnEdgeAppearsAndTurnsRedWhenItIsRefused(t *testing.T) {
	h := &History{}
	at := noon
	add := func(edges ...fleet.Edge) {
		at = at.Add(5 * time.Second)
		h.Add([]fleet.Node{node("one", edges...)}, at)
	}
	add()
	if g := h.Graph(all, time.Time{}); len(g.Edges) != 0 || len(g.Workloads) != 2 {
		t.Fatalf("at first %+v", g)
	}
	add(fromOutside(1, 0, at))
	if e := edgeOf(t, h.Graph(all, time.Time{}), "(outside)→shop/db"); e.State != Plaintext || !e.Active || e.Opened != 0.2 {
		t.Errorf("let in: %+v", e)
	}
	add(fromOutside(2, 1, at))
	g := h.Graph(all, time.Time{})
	if e := edgeOf(t, g, "(outside)→shop/db"); e.State != Refused || e.Refused != 1 {
		t.Errorf("shut out: %+v", e)
	}
	if len(g.Refusals) != 1 || g.Refusals[0].Word != "denied" || g.Refusals[0].Count != 1 {
		t.Errorf("refusals %+v", g.Refusals)
	}
	for range 12 { // a minute
		add(fromOutside(2, 1, at))
	}
	if e := edgeOf(t, h.Graph(all, time.Time{}), "(outside)→shop/db"); e.State != Refused || e.Active || e.Refused != 0 {
		t.Errorf("a minute later: %+v", e)
	}
	add(fromOutside(3, 1, at)) // somebody has let it in again
	if e := edgeOf(t, h.Graph(all, time.Time{}), "(outside)→shop/db"); e.State != Plaintext || !e.Active {
		t.Errorf("let in again: %+v", e)
	}
}

// What the destination's node remembers names the policy; the source's says who answered.
func TestARefusalIsExplainedByWhatThePodsRemember(t *testing.T) {
	h := &History{}
	n := node("one", toDB(2, 0, 1, 0, noon))
	ends := [2]fleet.RefusedEnd{{Namespace: "shop", Pod: "web-1", Address: netip.MustParseAddrPort("10.0.0.7:4711")}, {Namespace: "shop", Pod: "db-1"}}
	told := func(after time.Duration, word, policy, err string) fleet.Refused {
		return fleet.Refused{Time: noon.Add(after), Result: word, Policy: policy, Error: err, Source: ends[0], Dest: ends[1]}
	}
	n.Dump.Pods = map[string]fleet.Pod{
		"web": {State: enrolled, Refused: []fleet.Refused{told(0, "tls", "", "another word"), told(2, "denied", "", "http status: 401")}},
		"db":  {State: enrolled, Refused: []fleet.Refused{told(1, "denied", "AuthorizationPolicy shop/db", "rule 0")}},
	}
	h.Add([]fleet.Node{n}, noon)
	r := h.Graph(all, time.Time{}).Refusals
	if len(r) != 1 || r[0].Policy != "AuthorizationPolicy shop/db" || r[0].Error != "rule 0" || r[0].Source != "10.0.0.7:4711" || r[0].Pods != [2]string{"web-1", "db-1"} {
		t.Errorf("%+v", r)
	}
}

// refusedMesh has one refusal of shop/web-1 by shop/db-1, and a node more.
func refusedMesh() (*History, string) {
	h := &History{}
	n := node("one", toDB(2, 0, 1, 0, noon))
	n.Dump.Pods = map[string]fleet.Pod{"web": {State: enrolled, Refused: []fleet.Refused{{
		Time: noon, Result: "denied", Policy: "AuthorizationPolicy shop/db", Error: "rule 0", Asked: netip.MustParseAddrPort("10.96.0.1:80"),
		Source: fleet.RefusedEnd{Namespace: "shop", Pod: "web-1", Address: netip.MustParseAddrPort("10.0.0.7:4711")},
		Dest:   fleet.RefusedEnd{Namespace: "shop", Pod: "db-1", Address: netip.MustParseAddrPort("10.0.0.8:15008")},
	}}}}
	h.Add([]fleet.Node{n, node("other")}, noon)
	return h, h.Graph(all, time.Time{}).Refusals[0].ID
}

func TestThePastIsAsItWas(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{node("one")}, noon)
	h.Add([]fleet.Node{node("one", toDB(10, 1, 0, 5000, noon))}, noon.Add(5*time.Second))
	h.Add([]fleet.Node{node("one", toDB(10, 0, 0, 5000, noon), fromOutside(1, 1, noon))}, noon.Add(10*time.Second))
	if g := h.Graph(all, noon.Add(4*time.Second)); len(g.Edges) != 0 || !g.At.Equal(noon) {
		t.Errorf("before the first edge: %+v", g)
	}
	g := h.Graph(all, noon.Add(9*time.Second))
	if e := edgeOf(t, g, "shop/web→shop/db"); len(g.Edges) != 1 || e.Open != 1 || e.Opened != 2 || e.Bytes != 1000 || e.State != Locked {
		t.Errorf("with it: %+v", g.Edges)
	}
	if len(g.Refusals) != 0 {
		t.Errorf("refusals that nobody knew of then: %+v", g.Refusals)
	}
	if g := h.Graph(all, noon.Add(-time.Hour)); !g.At.Equal(noon) {
		t.Errorf("before all: %v", g.At)
	}
	d, known := h.Detail(all, "shop/web→shop/db")
	if !known || len(d.Hour) != 3 || d.Hour[1].Bytes != 1000 || len(d.Rows) != 1 || d.Rows[0].Opened != 10 {
		t.Errorf("detail %+v, %v", d, known)
	}
}

func TestWhatWasCountedBeforeIsNoNews(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{node("one", toDB(1000, 2, 7, 1e9, noon.Add(-time.Hour)))}, noon)
	g := h.Graph(all, time.Time{})
	if e := edgeOf(t, g, "shop/web→shop/db"); e.Opened != 0 || e.Bytes != 0 || e.Refused != 0 || e.Open != 2 || e.Total != 1000 || e.State != Locked {
		t.Errorf("%+v", e)
	}
	if len(g.Refusals) != 1 || g.Refusals[0].Count != 7 {
		t.Errorf("refusals %+v", g.Refusals)
	}
	h.Add([]fleet.Node{node("one", toDB(3, 0, 0, 50, noon))}, noon.Add(5*time.Second)) // it was restarted
	if e := edgeOf(t, h.Graph(all, time.Time{}), "shop/web→shop/db"); e.Opened != 0.6 || e.Refused != 0 {
		t.Errorf("after a restart: %+v", e)
	}
}

func TestANodeThatDoesNotAnswerChangesNothing(t *testing.T) {
	h := &History{}
	one, two := node("one", toDB(5, 1, 0, 100, noon)), node("two", toDB(7, 0, 0, 100, noon))
	h.Add([]fleet.Node{one, two}, noon)
	silent := fleet.Node{Problem: "no answer"}
	silent.Name = "two"
	h.Add([]fleet.Node{one, silent}, noon.Add(5*time.Second))
	g := h.Graph(all, time.Time{})
	if e := edgeOf(t, g, "shop/web→shop/db"); e.Total != 12 || e.Opened != 0 || g.Silent != 1 {
		t.Errorf("silent: %+v, %d silent", e, g.Silent)
	}
	h.Add([]fleet.Node{one, two}, noon.Add(10*time.Second))
	if e := edgeOf(t, h.Graph(all, time.Time{}), "shop/web→shop/db"); e.Total != 12 || e.Opened != 0 {
		t.Errorf("again: %+v", e)
	}
	h.Add([]fleet.Node{one}, noon.Add(15*time.Second)) // the node has left the mesh
	if e := edgeOf(t, h.Graph(all, time.Time{}), "shop/web→shop/db"); e.Total != 5 {
		t.Errorf("without it: %+v", e)
	}
}

func TestOpenConnectionsCountAsTheyCarry(t *testing.T) {
	h := &History{}
	carrying := func(bytes, ended uint64) fleet.Node {
		n := node("one", toDB(1, 1, 0, ended, noon))
		n.Dump.Pods = map[string]fleet.Pod{"web": {State: enrolled}}
		if ended == 0 {
			n.Dump.Pods["web"] = fleet.Pod{State: enrolled, Connections: fleet.Connections{Outbound: []fleet.Connection{{
				Direction: "outbound", ActualDst: "10.0.0.8:15008", DstIdentity: end("shop", "db").Identity, BytesSent: bytes,
			}}}}
		}
		n.Dump.Workloads[1].Addrs = addrs("10.0.0.8")
		return n
	}
	h.Add([]fleet.Node{carrying(1000, 0)}, noon)
	h.Add([]fleet.Node{carrying(6000, 0)}, noon.Add(5*time.Second))
	if e := edgeOf(t, h.Graph(all, time.Time{}), "shop/web→shop/db"); e.Bytes != 1000 || len(h.Graph(all, time.Time{}).Edges) != 1 {
		t.Errorf("%+v", e)
	}
	h.Add([]fleet.Node{carrying(0, 7000)}, noon.Add(10*time.Second)) // it has ended, and its row counts it
	if e := edgeOf(t, h.Graph(all, time.Time{}), "shop/web→shop/db"); e.Bytes != 200 || fmt.Sprint(e.Spark) != "[0 1000 200]" {
		t.Errorf("%+v", e)
	}
}

func TestAnHourIsKeptAndNoMore(t *testing.T) {
	h := &History{}
	for i := range 800 {
		h.Add([]fleet.Node{node("one", toDB(uint64(i), 0, 0, 0, noon))}, noon.Add(time.Duration(i)*5*time.Second))
	}
	if n := len(h.frames); n != 721 || h.kept < 721*sampleSize || h.kept > 800*sampleSize {
		t.Errorf("%d frames, %d bytes; want those of an hour", n, h.kept)
	}
	for i := range 800 {
		h.Add([]fleet.Node{node("one")}, noon.Add(time.Duration(800+i)*5*time.Second))
	}
	if len(h.edges) != 0 || h.kept != 0 || len(h.rows) != 0 {
		t.Errorf("an hour after its last row: %d edges, %d bytes", len(h.edges), h.kept)
	}
}

func TestEdgesAndRefusalsAreBounded(t *testing.T) {
	h := &History{}
	var edges []fleet.Edge
	for i := range maxPairs + 100 {
		e := toDB(1, 1, 1, 0, noon)
		e.Source.Workload = fmt.Sprintf("web-%d", i)
		edges = append(edges, e)
	}
	h.Add([]fleet.Node{node("one", edges...)}, noon)
	if g := h.Graph(all, time.Time{}); len(g.Edges) != maxPairs || g.Omitted != 100 || len(g.Refusals) != maxRefusals {
		t.Errorf("%d edges, %d omitted, %d refusals", len(g.Edges), g.Omitted, len(g.Refusals))
	}
}

func TestABusyMeshKeepsLessThanAnHour(t *testing.T) {
	h := &History{}
	e := newEdge(pair{"a", "b"})
	for i := range 6 {
		f := frame{at: noon.Add(time.Duration(i) * 5 * time.Second), scene: &Scene{}}
		for range maxKept / sampleSize / 4 {
			f.samples = append(f.samples, sample{edge: e})
		}
		h.push(f)
	}
	if len(h.frames) != 4 || h.kept > maxKept {
		t.Errorf("%d frames with %d bytes, want 4 with at most %d", len(h.frames), h.kept, maxKept)
	}
	if size := unsafe.Sizeof(sample{}); size != sampleSize {
		t.Errorf("a sample has %d bytes", size)
	}
}

// crowd is a node with many workloads, of which the pod of one changes.
func crowd(workloads, step int) fleet.Node {
	n := fleet.Node{}
	n.Name = "one"
	for i := range workloads {
		name := fmt.Sprintf("worker-%d", i)
		n.Dump.Workloads = append(n.Dump.Workloads, workload.Workload{UID: name, Namespace: fmt.Sprintf("ns-%04d", i/10), Name: name + "-1", Owner: name, Node: "one", Meshed: true})
	}
	n.Dump.Pods = map[string]fleet.Pod{"worker-7": {State: fmt.Sprintf("state %d", step)}}
	return n
}

func TestFramesShareWhatHasNotChanged(t *testing.T) {
	h := &History{}
	const workloads = 1000
	for i := range 50 {
		h.Add([]fleet.Node{crowd(workloads, i)}, noon.Add(time.Duration(i)*5*time.Second))
	}
	distinct := map[*Workload]bool{}
	for _, f := range h.frames {
		for _, w := range f.scene.Workloads {
			distinct[w] = true
		}
	}
	if len(distinct) != workloads+49 {
		t.Errorf("%d workloads are kept, want %d and one of each later frame", len(distinct), workloads)
	}
	for _, f := range h.frames[1:] {
		if &f.scene.Nodes[0] != &h.frames[0].scene.Nodes[0] || f.bytes < 8*workloads || f.bytes > 8*workloads+1000 {
			t.Fatalf("a frame has %d bytes of its own", f.bytes)
		}
	}
	if g := h.Graph(all, noon.Add(5*time.Second)); len(g.Workloads) != workloads || g.Workloads[7].Problems[0] != "worker-7-1: state 1" {
		t.Errorf("the past: %+v", g.Workloads[7])
	}
}

// Scenes count, too: one that is new in each frame leaves less of the past.
func TestAMeshThatChangesWhollyKeepsLessThanAnHour(t *testing.T) {
	h := &History{}
	for i := range 10 {
		s := &Scene{}
		for j := range 100 {
			s.Workloads = append(s.Workloads, &Workload{ID: fmt.Sprint(j), Problems: []string{strings.Repeat("x", maxKept/400) + fmt.Sprint(i)}})
		}
		f := frame{at: noon.Add(time.Duration(i) * 5 * time.Second), scene: s}
		if n := len(h.frames); n > 0 {
			f.bytes = s.share(h.frames[n-1].scene)
		}
		h.push(f)
	}
	if len(h.frames) > 4 || h.kept > maxKept {
		t.Errorf("%d frames, %d bytes", len(h.frames), h.kept)
	}
}

// fleet.Lean leaves what all nodes know with one of them, which need not be the first.
func TestWhatOneNodeKnowsOfTheMeshIsEnough(t *testing.T) {
	h := &History{}
	carrying := func(bytes uint64) []fleet.Node {
		one, two := node("one", toDB(1, 1, 0, 0, noon)), node("two")
		one.Dump.Workloads = nil
		for i := range two.Dump.Workloads {
			two.Dump.Workloads[i].Addrs = addrs("10.0.0." + []string{"7", "8"}[i])
		}
		one.Dump.Pods = map[string]fleet.Pod{"web": {State: enrolled, Connections: fleet.Connections{Outbound: []fleet.Connection{{
			Direction: "outbound", ActualDst: "10.0.0.8:15008", DstIdentity: end("shop", "db").Identity, BytesSent: bytes,
		}}}}}
		return []fleet.Node{one, two}
	}
	h.Add(carrying(1000), noon)
	h.Add(carrying(6000), noon.Add(5*time.Second))
	g := h.Graph(all, time.Time{})
	if e := edgeOf(t, g, "shop/web→shop/db"); e.Bytes != 1000 || len(g.Workloads) != 2 || g.Workloads[1].Enrolled != 1 {
		t.Errorf("%+v, %+v", e, g.Workloads)
	}
	if d, known := h.Detail(all, "shop/web→shop/db"); !known || len(d.Verdicts) != 1 || d.Verdicts[0].HeldBy != "two" {
		t.Errorf("%+v", d)
	}
}

// dials has rows of sources that each dial many destinations.
func dials(sources, destinations int, identity bool) []fleet.Edge {
	var edges []fleet.Edge
	for i := range sources {
		for j := range destinations {
			e := toDB(1, 1, 1, 0, noon)
			e.Source, e.Destination = end("hog", fmt.Sprintf("hog-%d", i)), end("far", fmt.Sprintf("far-%d", j))
			if identity {
				e.Source = fleet.End{Identity: fmt.Sprintf("spiffe://partner.example/%d/%d", i, j)}
			}
			edges = append(edges, e)
		}
	}
	return edges
}

// Whoever dials everybody leaves room for others.
func TestEdgesAreSharedByTheirSources(t *testing.T) {
	for name, hogs := range map[string][]fleet.Edge{"two that dial all": dials(2, maxPairs/2+100, false), "a partner's identities": dials(2, maxPairs/2+100, true)} {
		h := &History{}
		h.Add([]fleet.Node{node("one", hogs...)}, noon)
		if n := len(h.edges); n > maxPairs/2 {
			t.Errorf("%s: %d edges", name, n)
		}
		h.Add([]fleet.Node{node("one", append(hogs, toDB(1, 1, 1, 0, noon))...)}, noon.Add(5*time.Second))
		g := h.Graph(all, time.Time{})
		edgeOf(t, g, "shop/web→shop/db")
		if g.Omitted == 0 {
			t.Errorf("%s: none is omitted", name)
		}
		for i := range 2 { // the newest refusals are all of one source
			for j := range maxRefusals {
				at := noon.Add(time.Duration(i+10) * time.Second)
				h.refusals.put(Refusal{From: "hog/hog-0", To: fmt.Sprint(j), Word: fmt.Sprint(i), Count: 1, First: at, Last: at})
			}
		}
		if r := h.refusals.all["shop/web shop/db shop/db denied one"]; r == nil || len(h.refusals.all) != maxRefusals {
			t.Errorf("%s: the refusal of another source is gone, of %d", name, len(h.refusals.all))
		}
	}
}

// A table that is full keeps what it has: a row that came and went would be counted anew.
func TestRowsThatAreKnownStay(t *testing.T) {
	h := &History{}
	var edges []fleet.Edge
	for i := range maxRows + 1000 {
		e := toDB(100, 0, 0, 0, noon)
		e.Source, e.Port = end("shop", fmt.Sprintf("web-%d", i%100)), uint16(i/100+1)
		edges = append(edges, e)
	}
	h.begin()
	h.rows = h.standing([]fleet.Node{node("one", edges...)})
	again := h.standing([]fleet.Node{node("one", edges...)})
	if len(again) > maxRows || len(h.rows) < maxRows*9/10 || len(h.edges) != 100 {
		t.Errorf("%d rows, %d edges", len(again), len(h.edges))
	}
	for k := range h.rows {
		if _, there := again[k]; !there {
			t.Fatalf("%+v has gone", k)
		}
	}
}
