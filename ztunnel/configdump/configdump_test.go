// SPDX-License-Identifier: Apache-2.0

package configdump

import (
	"bytes"
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

var update = flag.Bool("update", false, "rewrite the golden file")

var (
	created = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	web     = netip.MustParseAddr("10.0.0.7")
	web6    = netip.MustParseAddr("fd00::7")
	printer = netip.MustParseAddr("192.0.2.9") // of nobody in the mesh
)

func mesh() workload.Mesh {
	return workload.Mesh{
		Workloads: workload.Pack(
			workload.Workload{
				UID: "uid-web", Namespace: "shop", Name: "web-0", Node: "node-1", Created: created, ServiceAccount: "web", Owner: "web",
				ID:    spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/web"),
				Addrs: []netip.Addr{web, web6}, Meshed: true, Ready: true, CanonicalName: "web", CanonicalRevision: "v1",
			},
			workload.Workload{UID: "uid-old", Namespace: "shop", Name: "old-0", Created: created},
		),
		Services: []workload.Service{
			{
				Namespace: "shop", Name: "web", VIPs: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd01::10")},
				Ports: []workload.ServicePort{
					{Name: "http", Port: 80, NodePort: 30080, Endpoints: []workload.Endpoint{
						{Addr: netip.AddrPortFrom(web, 8080), Node: "node-1"}, {Addr: netip.AddrPortFrom(web6, 8080), Node: "node-1"},
					}},
					{Port: 631, Endpoints: []workload.Endpoint{{Addr: netip.AddrPortFrom(web, 631)}, {Addr: netip.AddrPortFrom(printer, 632), Leaving: true}}},
				},
			},
			{Namespace: "shop", Name: "peers", Headless: true, Affinity: time.Hour},
		},
	}
}

func objects() policy.Objects {
	named := func(namespace, name string) policy.Object { return policy.Object{Namespace: namespace, Name: name} }
	selecting := named("shop", "selecting")
	selecting.Selector = policy.Selector{"app": "web"}
	return policy.Objects{
		RootNamespace: "istio-system",
		AuthorizationPolicies: []policy.AuthorizationPolicy{
			{Object: selecting, Action: policy.Allow, Rules: []policy.Rule{
				{
					{{Principals: []policy.Pattern{"cluster.local/ns/shop/sa/web", "*"}, NotNamespaces: []policy.Pattern{"dev-*", "*-dev"}}},
					{{Ports: []uint16{80}, Sources: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, {ServiceAccounts: []identity.ServiceAccount{{Namespace: "shop", Name: "web"}}}},
				},
				{}, // of which everything is true
			}},
			{Object: named("istio-system", "locked"), Action: policy.Deny},
			{Object: named("shop", "misunderstood"), Action: policy.Refuse},
			{Object: named("shop", "audited"), Action: policy.Audit},
			{Object: named("shop", "rehearsed"), Action: policy.Deny, DryRun: true},
			{Object: named("shop", "of-a-waypoint"), Action: policy.Deny, TargetRefs: true},
		},
		PeerAuthentications: []policy.PeerAuthentication{
			{Object: named("istio-system", "default"), Mode: policy.Strict},
			{Object: named("shop", "open"), Mode: policy.Permissive},
		},
	}
}

// dump is these keys as /config_dump has them.
func dump(t *testing.T) []byte {
	t.Helper()
	m := mesh()
	text, err := json.MarshalIndent(map[string]any{
		"workloads": Workloads(m.Workloads.Unpack(), m.Services, "Kubernetes", where), "services": Services(m.Services, m.Workloads), "policies": Policies(objects()),
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func where(node string) workload.Locality {
	return map[string]workload.Locality{"node-1": {Region: "atlantis", Zone: "east"}}[node]
}

func TestTheDumpIsWhatItWas(t *testing.T) {
	const golden = "testdata/dump.json"
	got := dump(t)
	if *update {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)); diff != "" {
		t.Error(diff)
	}
}

// read is what istioctl ztunnel-config decodes of these keys. It stops at the first of
// another type, whatever the command is.
type read struct {
	Workloads []struct {
		UID         string   `json:"uid"`
		WorkloadIPs []string `json:"workloadIps"`
		Protocol    string   `json:"protocol"`
		Name        string   `json:"name"`
		Namespace   string   `json:"namespace"`
		Node        string   `json:"node"`
		Status      string   `json:"status"`
		TrustDomain string   `json:"trustDomain"`
		Services    []string `json:"services"`
	} `json:"workloads"`
	Services []struct {
		Name      string         `json:"name"`
		Hostname  string         `json:"hostname"`
		Addresses []string       `json:"vips"`
		Ports     map[string]int `json:"ports"`
		Endpoints map[string]struct {
			WorkloadUID string            `json:"workloadUid"`
			Service     string            `json:"service"`
			Port        map[uint16]uint16 `json:"port"`
			Status      string            `json:"status"`
		} `json:"endpoints"`
		IPFamilies string `json:"ipFamilies"`
	} `json:"services"`
	Policies []struct {
		Name   string `json:"name"`
		Scope  string `json:"scope"`
		Action string `json:"action"`
		Rules  [][][]*struct {
			Principals []struct {
				Exact, Suffix, Prefix string
				Presence              any
			} `json:"principals"`
			SourceIPs        []string `json:"sourceIps"`
			DestinationPorts []uint16 `json:"destinationPorts"`
		} `json:"rules"`
	} `json:"policies"`
}

func TestIstiosToolsReadTheDump(t *testing.T) {
	// Of a workload Kiali shows the services that it finds by these names.
	var r read
	if err := json.NewDecoder(bytes.NewReader(dump(t))).Decode(&r); err != nil {
		t.Fatal(err)
	}
	w := r.Workloads[0]
	if w.UID != "uid-web" || !cmp.Equal(w.WorkloadIPs, []string{"10.0.0.7", "fd00::7"}) || w.Protocol != "HBONE" || w.Status != "Healthy" || w.Node != "node-1" || w.TrustDomain != "cluster.local" || !cmp.Equal(w.Services, []string{"shop/web.shop.svc.cluster.local"}) {
		t.Errorf("workload %+v", w)
	}
	if w := r.Workloads[1]; w.WorkloadIPs == nil || w.Services == nil || w.Protocol != "TCP" || w.Status != "Unhealthy" {
		t.Errorf("a workload outside the mesh %+v", w)
	}
	s := r.Services[0]
	if !cmp.Equal(s.Addresses, []string{"/10.96.0.10", "/fd01::10"}) || !cmp.Equal(s.Ports, map[string]int{"80": 8080, "631": 0}) || s.Hostname != "web.shop.svc.cluster.local" || s.IPFamilies != "Dual" {
		t.Errorf("service %+v", s)
	}
	if e := s.Endpoints["uid-web"]; len(s.Endpoints) != 2 || e.WorkloadUID != w.UID || !cmp.Equal(e.Port, map[uint16]uint16{80: 8080, 631: 631}) || e.Status != "Healthy" {
		t.Errorf("endpoints %+v", s.Endpoints)
	}
	told := map[string]string{}
	for _, p := range r.Policies {
		told[p.Name] = p.Scope + " " + p.Action
	}
	if diff := cmp.Diff(map[string]string{
		"selecting": "WorkloadSelector Allow", "locked": "Global Deny", "misunderstood": "Namespace Deny",
		"converted_peer_authentication_default": "Global Deny",
	}, told); diff != "" {
		t.Error(diff)
	}
	if first := r.Policies[0].Rules[0][0][0].Principals; first[0].Exact != "cluster.local/ns/shop/sa/web" || first[1].Presence == nil {
		t.Errorf("principals %+v", first)
	}
}
