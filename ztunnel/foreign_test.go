// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// What is of this mesh, or never steered, is of no other trust domain, whether a flag says so
// or an object.
func TestAnotherTrustDomainHasNoAddressOfThisMesh(t *testing.T) {
	cfg := Config{MeshCIDRs: cidrs("10.0.0.0/16"), ExcludeCIDRs: cidrs("10.1.0.0/16")}
	mesh := workload.Mesh{
		CIDRs: cidrs("10.2.0.0/16"), Nodes: []workload.Node{{Name: "n", Addrs: []netip.Addr{netip.MustParseAddr("10.3.0.1")}}},
		Services: []workload.Service{{Namespace: "shop", Name: "web", VIPs: []netip.Addr{netip.MustParseAddr("10.4.0.1")}}},
	}
	for cidr, says := range map[string]string{
		"10.0.4.0/24": "overlaps 10.0.0.0/16, which is of this mesh (-mesh-cidrs)", "10.1.4.0/24": "(-exclude-cidrs)",
		"10.2.4.0/24": "overlaps 10.2.0.0/16, which is of this mesh, by its Nodes and ServiceCIDRs", "10.3.0.0/24": "holds 10.3.0.1, which is of node n",
		"10.4.0.0/24": "holds 10.4.0.1, which is the cluster IP of Service shop/web", "10.5.4.0/24": "(-stand-in-cidrs)", "10.6.0.0/24": "",
	} {
		err := cfg.taken(netip.MustParsePrefix(cidr), cidrs("10.5.0.0/16"), mesh)
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", cidr, err, says)
		}
	}
}

// A start asks flags whose the addresses are, whether it goes by the file or by what was kept.
func TestAStartRefusesAListOfAddressesThatAreNotSteered(t *testing.T) {
	const list = "- {trustDomain: other.example, cidrs: [172.20.0.0/16]}"
	state, file := t.TempDir(), filepath.Join(t.TempDir(), "foreign.yaml")
	for _, path := range []string{file, filepath.Join(state, foreignFile)} {
		if err := os.WriteFile(path, []byte(list), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Config{ForeignWorkloads: file, ExcludeCIDRs: cidrs("172.20.4.0/24"), Log: slog.New(slog.DiscardHandler)}.withDefaults()
		td := spiffeid.RequireTrustDomainFromString(cfg.TrustDomain)
		_, err := cfg.foreign(td, state, workload.NewRegistry(nil), func(error) {})
		if err == nil || !strings.Contains(err.Error(), "172.20.0.0/16 of other.example: overlaps 172.20.4.0/24, which is never steered (-exclude-cidrs)") {
			t.Errorf("%s: %v", path, err)
		}
		cfg.ExcludeCIDRs = nil
		registry := workload.NewRegistry(nil)
		if _, err := cfg.foreign(td, state, registry, func(error) {}); err != nil || len(registry.Foreign()) != 1 {
			t.Errorf("%s: %v, %v in force", path, err, registry.Foreign())
		}
	}
}

// When this mesh gets an address that a list names, or loses it, tunnels are proved anew; a
// snapshot that changes neither costs nothing.
func TestTunnelsAreProvedAnewWhenThisMeshGetsANamedAddress(t *testing.T) {
	registry, proved := workload.NewRegistry(nil), 0
	follow := contests(registry, func() { proved++ })
	at, id := netip.MustParseAddr("172.20.0.7"), spiffeid.RequireFromString("spiffe://other.example/ns/shop/sa/web")
	registry.SetForeign([]workload.ForeignDomain{{
		TrustDomain: id.TrustDomain(), CIDRs: cidrs("172.20.0.0/16"), Workloads: []workload.ForeignWorkload{{ID: id, Addrs: []netip.Addr{at}}},
	}})
	node := workload.Mesh{Nodes: []workload.Node{{Name: "n", Addrs: []netip.Addr{at}}}}
	for _, step := range []struct {
		when string
		mesh workload.Mesh
		want int
	}{
		{"nothing is of this mesh", workload.Mesh{}, 0}, {"a node has it", node, 1}, {"the node has it yet", node, 1},
		{"the node is gone", workload.Mesh{}, 2}, {"it is in the mesh's CIDRs", workload.Mesh{CIDRs: cidrs("172.20.0.0/24")}, 3},
	} {
		registry.Replace(step.mesh)
		if follow(); proved != step.want {
			t.Errorf("%s: proved anew %d times, want %d", step.when, proved, step.want)
		}
	}
}
