// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func foreign(host string, port uint16) ForeignProbe {
	a, _ := netip.ParseAddr(host)
	return ForeignProbe{Host: host, Addr: a, Port: port}
}

// Whoever may create a pod could else have the kubelet speak for it.
func TestAPortThatAnotherPodsProbeMayReachIsExemptForNobody(t *testing.T) {
	for _, row := range []struct {
		name   string
		probe  ForeignProbe
		change func(attacker *Workload)
		left   []uint16
	}{
		{"its address and port", foreign("10.1.0.2", 8080), nil, []uint16{8081}},
		{"its other address", foreign("fd00::2", 8080), nil, []uint16{8081}},
		{"another port", foreign("10.1.0.2", 9090), nil, []uint16{8080, 8081}},
		{"another pod", foreign("10.1.0.3", 8080), nil, []uint16{8080, 8081}},
		{"a name, which may lead to it", foreign("evil.example", 8081), nil, []uint16{8080}},
		{"an address that nobody has, of its second network perhaps", foreign("172.30.0.2", 8081), nil, []uint16{8080}},
		{"a node", foreign("192.168.0.1", 8080), nil, []uint16{8080, 8081}},
		{"a service", foreign("10.96.0.5", 8080), nil, []uint16{8080, 8081}},
		{"by a pod in the node's network", foreign("10.1.0.2", 8080), func(w *Workload) { w.HostNetwork = true }, []uint16{8081}},
		{"by a pod outside the mesh", foreign("10.1.0.2", 8080), func(w *Workload) { w.Meshed = false }, []uint16{8081}},
		{"by a pod of another node", foreign("10.1.0.2", 8080), func(w *Workload) { w.Node = "node-2" }, []uint16{8080, 8081}},
		{"by a pod that ended", foreign("10.1.0.2", 8080), func(w *Workload) { w.Terminated = true }, []uint16{8080, 8081}},
	} {
		t.Run(row.name, func(t *testing.T) {
			victim, attacker := pod("victim", "uv", "10.1.0.2", "fd00::2"), pod("attacker", "ua", "10.1.0.9")
			victim.ProbePorts = []uint16{8080, 8081}
			attacker.ForeignProbes = []ForeignProbe{row.probe}
			if row.change != nil {
				row.change(&attacker)
			}
			mesh := Mesh{
				Workloads: Pack(victim, attacker, pod("other", "uo", "10.1.0.3")),
				Nodes:     []Node{{Name: "node-1", Addrs: []netip.Addr{addr("192.168.0.1")}}},
				Services:  []Service{{Namespace: "shop", Name: "web", VIPs: []netip.Addr{addr("10.96.0.5")}}},
			}
			r := registry(t, mesh)
			got, _ := r.ByUID("uv")
			if !slices.Equal(got.ProbePorts, row.left) {
				t.Errorf("exempt ports %v, want %v", got.ProbePorts, row.left)
			}
			if len(row.left) == 1 {
				if want := []TakenProbe{{row.probe.Port, "shop/attacker"}}; !cmp.Equal(got.TakenProbes, want) {
					t.Errorf("taken %v, want %v", got.TakenProbes, want)
				}
				if others := r.ProbingOthers("node-1"); len(others) != 1 || others[0].UID != "ua" {
					t.Errorf("probing others: %v", others)
				}
			}
			if !slices.Equal(mesh.Workloads[0].ProbePorts, []uint16{8080, 8081}) {
				t.Error("the snapshot was written to")
			}
			// The attacker goes, and the exemption is back.
			r.Replace(Mesh{Workloads: mesh.Workloads[:1]})
			if got, _ := r.ByUID("uv"); !slices.Equal(got.ProbePorts, []uint16{8080, 8081}) || got.TakenProbes != nil {
				t.Errorf("once the other pod is gone: %v, %v", got.ProbePorts, got.TakenProbes)
			}
		})
	}
}

func TestAProbeThatLeadsToNoPodIsNoMatter(t *testing.T) {
	w := pod("ingress", "ui", "10.1.0.9")
	w.ForeignProbes = []ForeignProbe{foreign("192.168.0.1", 80)}
	r := registry(t, Mesh{Workloads: Pack(w), Nodes: []Node{{Name: "node-1", Addrs: []netip.Addr{addr("192.168.0.1")}}}})
	if got := r.ProbingOthers("node-1"); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}
