// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// kubeProxyVectors are what TestCategorizeEndpoints of kube-proxy (Kubernetes 1.37,
// pkg/proxy/topology_test.go) expects, under its names, in a notation of our own:
// an endpoint is the last number of its address and what is said of it. Left out is
// the one case of a feature that is switched off. unused: kube-proxy does not need
// that list for the Service of the case.
var kubeProxyVectors = []struct {
	name           string
	here           place
	endpoints      string
	cluster, local string
}{
	{"should use topology since all endpoints have hints, node has a zone label and and there are endpoints for the node's zone", place{"node-1", "a"}, "3 ready zones=a; 4 ready zones=b; 5 ready zones=c; 6 ready zones=a", "3 6", "unused"},
	{"externalTrafficPolicy: Local, topology ignored for Local endpoints", place{"node-1", "a"}, "3 ready local zones=a; 4 ready local zones=b; 5 ready zones=c; 6 ready zones=a", "3 6", "3 4"},
	{"internalTrafficPolicy: Local, topology ignored for Local endpoints", place{"node-1", "a"}, "3 ready local zones=a; 4 ready local zones=b; 5 ready zones=c; 6 ready zones=a", "3 6", "3 4"},
	{"empty node labels", place{"node-1", ""}, "3 ready zones=a", "3", "unused"},
	{"empty zone label", place{"node-1", ""}, "3 ready zones=a", "3", "unused"},
	{"node in different zone, no endpoint filtering", place{"node-1", "b"}, "3 ready zones=a", "3", "unused"},
	{"unready endpoint", place{"node-1", "a"}, "3 ready zones=a; 4 ready zones=b; 5 ready zones=c; 6 unready zones=a", "3", "unused"},
	{"only unready endpoints in same zone (should not filter)", place{"node-1", "a"}, "3 unready zones=a; 4 ready zones=b; 5 ready zones=c; 6 unready zones=a", "4 5", "unused"},
	{"missing hints, no filtering applied", place{"node-1", "a"}, "3 ready zones=a; 4 ready zones=b; 5 ready; 6 ready zones=a", "3 4 5 6", "unused"},
	{"multiple hints per endpoint, filtering includes any endpoint with zone included", place{"node-1", "c"}, "3 ready zones=a,b,c; 4 ready zones=b,c; 5 ready zones=b,d; 6 ready zones=c", "3 4 6", "unused"},
	{"PreferSameNode available", place{"node-1", "a"}, "3 ready zones=a nodes=node-1; 4 ready zones=b nodes=node-2; 5 ready zones=c nodes=node-3; 6 ready zones=a nodes=node-4", "3", "unused"},
	{"PreferSameNode ignored if some endpoints unhinted", place{"node-1", "a"}, "3 ready zones=a nodes=node-1; 4 ready; 5 ready zones=c nodes=node-3; 6 ready zones=a nodes=node-4", "3 4 5 6", "unused"},
	{"PreferSameNode falls back to PreferSameZone if no endpoint for node", place{"node-0", "a"}, "3 ready zones=a nodes=node-1; 4 ready zones=b nodes=node-2; 5 ready zones=c nodes=node-3; 6 ready zones=a nodes=node-4", "3 6", "unused"},
	{"conflicting topology and localness require merging allEndpoints", place{"node-1", "a"}, "0 ready local zones=a; 1 ready local zones=b; 2 ready zones=a; 3 ready zones=b", "0 2", "0 1"},
	{"internalTrafficPolicy: Local, with empty endpoints", place{"node-1", ""}, "", "unused", ""},
	{"internalTrafficPolicy: Local, but all endpoints are remote", place{"node-1", ""}, "0 ready; 1 ready", "unused", ""},
	{"internalTrafficPolicy: Local, all endpoints are local", place{"node-1", ""}, "0 ready local; 1 ready local", "unused", "0 1"},
	{"internalTrafficPolicy: Local, some endpoints are local", place{"node-1", ""}, "0 ready local; 1 ready", "unused", "0"},
	{"Cluster traffic policy, endpoints not Ready", place{"node-1", ""}, "0 unready; 1 unready", "", "unused"},
	{"Cluster traffic policy, some endpoints are Ready", place{"node-1", ""}, "0 unready; 1 ready", "1", "unused"},
	{"Cluster traffic policy, all endpoints are terminating", place{"node-1", ""}, "0 leaving local; 1 leaving", "0 1", "unused"},
	{"iTP: Local, eTP: Cluster, some endpoints local", place{"node-1", ""}, "0 ready local; 1 ready", "0 1", "0"},
	{"iTP: Cluster, eTP: Local, some endpoints local", place{"node-1", ""}, "0 ready local; 1 ready", "0 1", "0"},
	{"iTP: Local, eTP: Local, some endpoints local", place{"node-1", ""}, "0 ready local; 1 ready", "0 1", "0"},
	{"iTP: Local, eTP: Local, all endpoints remote", place{"node-1", ""}, "0 ready; 1 ready", "0 1", ""},
	{"iTP: Local, eTP: Local, all endpoints remote and terminating", place{"node-1", ""}, "0 leaving; 1 leaving", "0 1", ""},
	{"iTP: Cluster, eTP: Local, with terminating endpoints", place{"node-1", ""}, "0 ready; 1 unready local; 2 leaving local; 3 leaving", "0", "2"},
	{"externalTrafficPolicy ignored if not externally accessible", place{"node-1", ""}, "0 ready; 1 ready local", "0 1", "unused"},
	{"no cluster endpoints for iTP:Local internal-only service", place{"node-1", ""}, "0 ready; 1 ready local", "unused", "1"},
	{"empty endpoints when no service endpoints exist", place{"node-1", ""}, "", "unused", "unused"},
	{"single endpoint not ready, not serving, not terminating", place{"node-1", "a"}, "0 unready", "", "unused"},
}

// parseEndpoints reads "3 ready local zones=a,b nodes=node-1; 4 leaving". Those that
// are unready never come to a Registry; local ones are on node-1.
func parseEndpoints(text string) (out []endpoint) {
	for one := range strings.SplitSeq(text, "; ") {
		e := Endpoint{Node: "node-2"}
		unready := one == ""
		for i, word := range strings.Fields(one) {
			key, list, _ := strings.Cut(word, "=")
			if (key == "zones" || key == "nodes") && e.Hints == nil {
				e.Hints = &Hints{}
			}
			switch {
			case i == 0:
				e.Addr = ap("10.1.2." + word + ":80")
			case key == "local":
				e.Node = "node-1"
			case key == "leaving":
				e.Leaving = true
			case key == "unready":
				unready = true
			case key == "zones":
				e.Hints.Zones = strings.Split(list, ",")
			case key == "nodes":
				e.Hints.Nodes = strings.Split(list, ",")
			}
		}
		if !unready {
			out = append(out, endpoint{Endpoint: &e})
		}
	}
	return out
}

func lastNumbers(endpoints []endpoint) string {
	var out []string
	for _, e := range endpoints {
		out = append(out, fmt.Sprint(e.Addr.Addr().As4()[3]))
	}
	return strings.Join(out, " ")
}

func TestEndpointsAreSortedAsKubeProxyDoes(t *testing.T) {
	for _, v := range kubeProxyVectors {
		t.Run(v.name, func(t *testing.T) {
			all := parseEndpoints(v.endpoints)
			if got := lastNumbers(clusterEndpoints(all, v.here)); v.cluster != "unused" && got != v.cluster {
				t.Errorf("cluster: %q, want %q", got, v.cluster)
			}
			if got := lastNumbers(localEndpoints(all, v.here.node)); v.local != "unused" && got != v.local {
				t.Errorf("local: %q, want %q", got, v.local)
			}
			if again := parseEndpoints(v.endpoints); lastNumbers(again) != lastNumbers(all) {
				t.Errorf("the list was written to: %q", lastNumbers(all))
			}
		})
	}
}

// city is a Service of two ports, with pods on two nodes of two zones. The pod on
// node-3 is on its way out.
func city() Mesh {
	a, b, c := pod("a", "ua", "10.1.0.2", "fd00::2"), pod("b", "ub", "10.1.0.3"), pod("c", "uc", "10.1.0.4")
	b.Node, c.Node = "node-2", "node-3"
	return Mesh{
		Workloads: Pack(a, b, c),
		Nodes:     []Node{{Name: "node-1", Zone: "east"}, {Name: "node-2", Zone: "west"}, {Name: "node-3", Zone: "west"}},
		Services: []Service{{
			Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("10.96.0.5")}, LoadBalancerIPs: []netip.Addr{addr("203.0.113.5")},
			Ports: []ServicePort{{Port: 80, NodePort: 30080, Endpoints: []Endpoint{
				{Addr: ap("10.1.0.2:80")}, {Addr: ap("10.1.0.3:80"), Node: "node-2"}, {Addr: ap("10.1.0.4:80"), Node: "node-3", Leaving: true},
			}}},
		}},
	}
}

// leads returns the pods' names to which connections from a node go.
func leads(t *testing.T, node string, mesh Mesh, dst string) string {
	t.Helper()
	r := NewRegistry([]netip.Prefix{prefix("10.0.0.0/8")})
	r.Node = node
	r.Replace(mesh)
	seen := map[string]bool{}
	for range 100 {
		seen[resolve(t, r, dst).Peer.Name] = true
	}
	out := ""
	for _, name := range []string{"a", "b", "c"} {
		if seen[name] {
			out += name
		}
	}
	return out
}

func TestAnInternalServiceOfTheNodeLeadsToPodsOfTheNodeOnly(t *testing.T) {
	mesh := city()
	mesh.Services[0].InternalLocal = true
	for node, want := range map[string]string{"node-1": "a", "node-2": "b", "node-3": "c"} {
		if got := leads(t, node, mesh, "10.96.0.5:80"); got != want {
			t.Errorf("from %s to %s, want %s", node, got, want)
		}
		// It says nothing of what comes from outside.
		if got := leads(t, node, mesh, "203.0.113.5:80"); got != "ab" {
			t.Errorf("from %s by the load balancer's address to %s", node, got)
		}
	}
}

// Nobody on the node is not nobody at all: the record says what is the matter.
func TestAnInternalServiceWithoutAPodOnTheNodeIsRefusedWithItsReason(t *testing.T) {
	mesh := city()
	mesh.Services[0].InternalLocal = true
	for _, node := range []string{"node-9", ""} {
		r := NewRegistry([]netip.Prefix{prefix("10.0.0.0/8")})
		r.Node = node
		r.Replace(mesh)
		refused(t, r, "10.96.0.5:80", ErrNoEndpoint, "service shop/web has internalTrafficPolicy Local and nobody on node "+node+", but 3 elsewhere")
		if got := r.Nobody(); len(got) != 0 {
			t.Errorf("refused before it can be recorded: %v", got)
		}
	}
	mesh.Services[0].Ports[0].Endpoints = nil
	r := registry(t, mesh)
	refused(t, r, "10.96.0.5:80", ErrNoEndpoint, "no ready pod")
	if got := r.Nobody(); len(got) != 1+1 {
		t.Errorf("nobody behind %v", got)
	}
}

func TestPodsOnTheirWayOutServeOnlyWhileNobodyElseDoes(t *testing.T) {
	mesh := city()
	for _, dst := range []string{"10.96.0.5:80", "203.0.113.5:80"} {
		if got := leads(t, "node-1", mesh, dst); got != "ab" {
			t.Errorf("%s leads to %s", dst, got)
		}
	}
	mesh.Services[0].Ports[0].Endpoints = mesh.Services[0].Ports[0].Endpoints[2:]
	for _, dst := range []string{"10.96.0.5:80", "203.0.113.5:80"} {
		if got := leads(t, "node-1", mesh, dst); got != "c" {
			t.Errorf("alone, %s leads to %s", dst, got)
		}
	}
}

func TestHintsKeepConnectionsInTheZoneOrOnTheNode(t *testing.T) {
	mesh := city()
	for i, at := range []struct{ node, zone string }{{"node-1", "east"}, {"node-2", "west"}, {"node-3", "west"}} {
		e := &mesh.Services[0].Ports[0].Endpoints[i]
		e.Leaving, e.Hints = false, &Hints{Zones: []string{at.zone}}
	}
	from := func(node string) string { return leads(t, node, mesh, "10.96.0.5:80") }
	if east, west, nowhere := from("node-1"), from("node-2"), from("node-9"); east != "a" || west != "bc" || nowhere != "abc" {
		t.Errorf("by zone: east to %s, west to %s, from a node without a zone to %s", east, west, nowhere)
	}
	for i, node := range []string{"node-1", "node-2", "node-3"} {
		mesh.Services[0].Ports[0].Endpoints[i].Hints.Nodes = []string{node}
	}
	if own, other := from("node-2"), from("node-9"); own != "b" || other != "abc" {
		t.Errorf("by node: to %s, from one without a pod to %s", own, other)
	}
}
