// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func addrs(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }

// What bears this word is in a namespace that the viewer must not see.
const secret = "hush"

func secretMesh() *History {
	h := &History{}
	n := node("node-"+secret, toDB(3, 1, 1, 100, noon))
	n.Dump.CA.Reason = secret
	n.Dump.Workloads = append(n.Dump.Workloads, workload.Workload{UID: secret, Namespace: secret, Name: secret + "-1", Owner: secret, Meshed: true, Addrs: addrs("10.9.9.9"), Unsteerable: secret})
	for i := range n.Dump.Workloads[:2] {
		n.Dump.Workloads[i].Node = "node-a"
	}
	hidden := fleet.Edge{Direction: "outbound", Source: end(secret, secret), Destination: end("shop", "db"), Service: secret + "/svc", Port: 1, Secured: true, Opened: 2, Last: noon, Refused: map[string]uint64{"denied": 1}}
	other := hidden
	other.Source.Workload = secret + "2"
	within := hidden
	within.Destination = end(secret, secret+"3")
	n.Dump.Edges = append(n.Dump.Edges, hidden, other, within)
	n.Dump.Certificates = []fleet.Held{{Identity: end(secret, secret).Identity, State: secret}}
	h.Add([]fleet.Node{n}, noon)
	return h
}

func TestNothingOfAnotherNamespaceLeavesTheServer(t *testing.T) {
	h, shop := secretMesh(), Sight{Namespaces: map[string]bool{"shop": true}}
	h.refusals.put(Refusal{From: "shop/web", To: "shop/db", Word: "denied", Policy: "AuthorizationPolicy " + secret + "/x", Error: secret, Node: "node-" + secret, Count: 1, First: noon, Last: noon})
	graph, detail := h.Graph(shop, time.Time{}), []any{}
	for _, e := range graph.Edges {
		d, known := h.Detail(shop, e.ID)
		if !known {
			t.Errorf("no detail of %s", e.ID)
		}
		detail = append(detail, d)
	}
	tick, _ := h.Tick(shop)
	text, err := json.Marshal([]any{graph, detail, tick})
	if err != nil || strings.Contains(string(text), secret) || strings.Contains(string(text), "10.9.9.9") {
		t.Errorf("%v: %s", err, text)
	}
	e := edgeOf(t, graph, "(elsewhere)→shop/db")
	if len(graph.Edges) != 2 || e.Total != 4 || graph.Namespaces[0] != "shop" || len(graph.Namespaces) != 1 {
		t.Errorf("%d edges, %+v", len(graph.Edges), e)
	}
	if _, known := h.Detail(shop, secret+"/"+secret+"→shop/db"); known {
		t.Error("the detail of a hidden edge is found by its name")
	}
}

func TestWhoSeesAllSeesAll(t *testing.T) {
	g := secretMesh().Graph(all, time.Time{})
	if len(g.Edges) != 4 || len(g.Workloads) != 3 || len(g.Nodes) != 1 || len(g.Certificates) != 1 || len(g.Refusals) != 4 {
		t.Errorf("%d edges, %d workloads, %d nodes, %d certificates, %d refusals", len(g.Edges), len(g.Workloads), len(g.Nodes), len(g.Certificates), len(g.Refusals))
	}
}

func TestWhoSeesNothingSeesNothing(t *testing.T) {
	g := secretMesh().Graph(Sight{}, time.Time{})
	if len(g.Edges)+len(g.Workloads)+len(g.Nodes)+len(g.Certificates)+len(g.Refusals)+len(g.Namespaces) != 0 {
		t.Errorf("%+v", g)
	}
}

// The page asks for the whole graph when this changes, and only then.
func TestTheTopologyChangesWithWhatAViewerSees(t *testing.T) {
	h, shop := secretMesh(), Sight{Namespaces: map[string]bool{"shop": true}}
	before, _ := h.Tick(shop)
	if h.Graph(shop, time.Time{}).Topology != before.Topology {
		t.Error("the graph and the tick of a moment differ")
	}
	n := h.last[0]
	h.Add([]fleet.Node{n}, noon.Add(5*time.Second))
	if same, _ := h.Tick(shop); same.Topology != before.Topology {
		t.Error("it changed without a reason")
	}
	n.Dump.Edges = append(n.Dump.Edges, fromOutside(1, 0, noon))
	h.Add([]fleet.Node{n}, noon.Add(10*time.Second))
	if after, _ := h.Tick(shop); after.Topology == before.Topology {
		t.Error("an edge came, and it is the same")
	}
}
