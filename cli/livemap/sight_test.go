// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func addrs(text string) []netip.Addr { return []netip.Addr{netip.MustParseAddr(text)} }

// What bears this word is in a namespace that the viewer must not see.
const secret = "hush"

func secretMesh() *History {
	h := &History{}
	h.Add([]fleet.Node{secretNode()}, noon)
	return h
}

func secretNode() fleet.Node {
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
	return n
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
	n := secretNode()
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

// A partner's namespace of the same name is not the viewer's.
func TestAPartnersNamespaceIsNotTheViewers(t *testing.T) {
	h, shop := &History{}, Sight{Namespaces: map[string]bool{"shop": true}}
	partner := toDB(1, 0, 0, 0, noon)
	partner.Direction, partner.Source = "inbound", fleet.End{Identity: "spiffe://partner.example/ns/shop/sa/" + secret}
	n := node("one", partner)
	n.Dump.Certificates = []fleet.Held{{Identity: "spiffe://partner.example/ns/shop/sa/" + secret}, {Identity: end("shop", "web").Identity}}
	h.Add([]fleet.Node{n}, noon)
	g := h.Graph(shop, time.Time{})
	text, err := json.Marshal(g)
	if err != nil || strings.Contains(string(text), secret) || strings.Contains(string(text), "partner.example") {
		t.Errorf("%v: %s", err, text)
	}
	if edgeOf(t, g, "(elsewhere)→shop/db"); len(g.Edges) != 1 || len(g.Certificates) != 1 {
		t.Errorf("%d edges, %d certificates", len(g.Edges), len(g.Certificates))
	}
}

// A pod of a hidden namespace that is gone has no workload any more, and no name as an end.
func TestAPodThatIsGoneIsAsHiddenAsItWas(t *testing.T) {
	h, shop := &History{}, Sight{Namespaces: map[string]bool{"shop": true}}
	n := node("one", fromOutside(1, 1, noon))
	gone := fleet.RefusedEnd{Namespace: secret, Pod: secret + "-1", Address: netip.MustParseAddrPort("10.9.9.9:4711")}
	n.Dump.Pods = map[string]fleet.Pod{"db": {State: enrolled, Refused: []fleet.Refused{
		{Time: noon, Result: "denied", Policy: "AuthorizationPolicy shop/db", Error: secret, Source: gone, Dest: fleet.RefusedEnd{Namespace: "shop", Pod: "db-1"}},
	}}}
	h.Add([]fleet.Node{n}, noon)
	if r := h.Graph(all, time.Time{}).Refusals; len(r) != 1 || r[0].Source != "10.9.9.9:4711" || r[0].Pods[0] != secret+"-1" {
		t.Fatalf("who sees all: %+v", r)
	}
	r := h.Graph(shop, time.Time{}).Refusals
	text, err := json.Marshal(r)
	if err != nil || len(r) != 1 || strings.Contains(string(text), secret) || strings.Contains(string(text), "10.9.9.9") || r[0].Pods[1] != "db-1" {
		t.Errorf("%v: %s", err, text)
	}
}

// What allows a connection is named in the reason alone.
func TestAVerdictNamesNoPolicyOfAnotherNamespace(t *testing.T) {
	h, shop := &History{}, Sight{Namespaces: map[string]bool{"shop": true}}
	n := node("one", toDB(1, 0, 0, 0, noon))
	for i := range n.Dump.Workloads {
		n.Dump.Workloads[i].Addrs = addrs("10.0.0." + []string{"7", "8"}[i])
	}
	n.Dump.Policies = policy.Objects{RootNamespace: "istio-system", AuthorizationPolicies: []policy.AuthorizationPolicy{
		{Namespace: "istio-system", Name: secret, Action: policy.Allow, Rules: []policy.Rule{{}}},
	}}
	h.Add([]fleet.Node{n}, noon)
	for _, s := range []Sight{all, shop} {
		d, known := h.Detail(s, "shop/web→shop/db")
		if !known || len(d.Verdicts) != 1 || d.Verdicts[0].Allowed != "yes" {
			t.Fatalf("%+v", d)
		}
		if strings.Contains(d.Verdicts[0].Why, secret) != s.All {
			t.Errorf("%v: why %q", s, d.Verdicts[0].Why)
		}
	}
}

func TestATextIsReadByThoseWhoSeeAllThatItNames(t *testing.T) {
	shop := Sight{Namespaces: map[string]bool{"shop": true}, domains: map[string]bool{"cluster.local": true}}
	for text, want := range map[string]bool{
		"": true, "dial tcp 10.0.0.1:15008: i/o timeout": true, "no rule of 10.0.0.0/8 or fd00::/8 allows it": true,
		"rule 0 of AuthorizationPolicy shop/db allows it": true, "rule 0 of AuthorizationPolicy hush/db: allows it": false,
		`peer is "spiffe://cluster.local/ns/hush/sa/web", not`:   false,
		`peer is "spiffe://cluster.local/ns/shop/sa/web": not`:   true,
		`peer is uri=spiffe://partner.example/ns/shop/sa/web`:    false,
		"over the share of hush/web-1, (shop/db-1)":              false,
		"over the share of shop/web-1, (shop/db-1), [shop/db-2]": true,
	} {
		if got := shop.mayRead(text); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
}

// What is shown has a bound for each viewer: the first namespaces are not in the others' way.
func TestTheBoundOfWorkloadsIsEachViewersOwn(t *testing.T) {
	h := &History{}
	h.Add([]fleet.Node{crowd(maxWorkloads+100, 0)}, noon)
	if g := h.Graph(all, time.Time{}); len(g.Workloads) != maxWorkloads || g.Omitted != 100 {
		t.Errorf("who sees all: %d workloads, %d omitted", len(g.Workloads), g.Omitted)
	}
	names := h.Namespaces()
	last := names[len(names)-1]
	if g := h.Graph(Sight{Namespaces: map[string]bool{last: true}}, time.Time{}); len(names) != maxWorkloads/10+10 || len(g.Workloads) != 10 || g.Omitted != 0 {
		t.Errorf("%d namespaces; who sees %s: %d workloads, %d omitted", len(names), last, len(g.Workloads), g.Omitted)
	}
}

// An edge of a viewer may stand for thousands of hidden ones: their rows are looked at once,
// not for each of them, and are one row, as how many there are is hidden, too.
func TestThousandsOfHiddenClientsAreOneRow(t *testing.T) {
	h, shop := &History{}, Sight{Namespaces: map[string]bool{"shop": true}}
	const clients, ports = 1000, 10
	var edges []fleet.Edge
	for i := range clients {
		for port := range ports {
			e := toDB(2, 1, 1, 10, noon)
			e.Source, e.Port = end(secret, fmt.Sprintf("client-%d", i)), uint16(port+1)
			edges = append(edges, e)
		}
	}
	h.Add([]fleet.Node{node("one", edges...)}, noon)
	d, known := h.Detail(shop, "(elsewhere)→shop/db")
	if !known || len(d.Rows) != ports {
		t.Fatalf("%v, %d rows, want one of each port", known, len(d.Rows))
	}
	if r := d.Rows[0]; r.Opened != 2*clients || r.Open != clients || r.Sent != 10*clients || r.Refused["denied"] != clients {
		t.Errorf("%+v", r)
	}
	if n := testing.AllocsPerRun(1, func() { h.Detail(shop, "(elsewhere)→shop/db") }); n > 20*clients*ports {
		t.Errorf("%.0f allocations for %d rows: they are looked at again and again", n, clients*ports)
	}
	if again, _ := h.Detail(shop, "(elsewhere)→shop/db"); !reflect.DeepEqual(again, d) {
		t.Error("looking changes what is counted")
	}
	if len(d.Hour) != 1 || d.Hour[0].Open != clients*ports {
		t.Errorf("hour %+v", d.Hour)
	}
}
