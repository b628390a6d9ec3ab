// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/loglevel"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
	"github.com/culvert-mesh/culvert/ztunnel/source/foreign"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// foreign is where workloads of other trust domains come from; nil: there are none. An address
// of theirs that would leave in plaintext, or is of this mesh, is refused.
func (c Config) foreign(td spiffeid.TrustDomain, state string, registry *workload.Registry, onError func(error)) (*foreign.Source, error) {
	if c.ForeignWorkloads == "" {
		return nil, nil
	}
	standIns, err := redirect.StandIns(c.StandIns)
	if err != nil {
		return nil, err
	}
	objects, err := foreign.Open(foreign.Options{
		TrustDomain: td, File: c.ForeignWorkloads, Kept: filepath.Join(state, foreignFile),
		Taken:   func(cidr netip.Prefix) error { return c.taken(cidr, standIns, registry.All()) },
		Known:   registry.WaitSynced,
		OnError: onError, Log: c.levels.Logger(loglevel.Source),
	})
	if err != nil {
		return nil, fmt.Errorf("workloads of other trust domains (-foreign-workloads): %w", err)
	}
	registry.SetForeign(objects.Domains())
	return objects, nil
}

// taken is whose addresses of a CIDR are already, by flags and by a snapshot.
func (c Config) taken(cidr netip.Prefix, standIns []netip.Prefix, mesh workload.Mesh) error {
	for _, other := range []struct {
		prefixes []netip.Prefix
		what     string
	}{
		{c.MeshCIDRs, "which is of this mesh (-mesh-cidrs)"}, {mesh.CIDRs, "which is of this mesh, by its Nodes and ServiceCIDRs"},
		{c.ExcludeCIDRs, "which is never steered (-exclude-cidrs)"}, {standIns, "which stands for destinations in pods (-stand-in-cidrs)"},
	} {
		if by := overlapping(other.prefixes, cidr); len(by) > 0 {
			return fmt.Errorf("overlaps %v, %s", by[0], other.what)
		}
	}
	held := func(addr netip.Addr) bool { return cidr.Contains(addr.Unmap()) }
	for _, n := range mesh.Nodes {
		if i := slices.IndexFunc(n.Addrs, held); i >= 0 {
			return fmt.Errorf("holds %v, which is of node %s of this mesh", n.Addrs[i], n.Name)
		}
	}
	for i := range mesh.Services {
		s := &mesh.Services[i]
		if i := slices.IndexFunc(s.VIPs, held); i >= 0 {
			return fmt.Errorf("holds %v, which is the cluster IP of Service %s/%s of this mesh", s.VIPs[i], s.Namespace, s.Name)
		}
	}
	return nil
}

// contests returns what to call after each snapshot: it has tunnels proved anew if this mesh
// got, or lost, an address that the list of other trust domains names.
func contests(registry *workload.Registry, reprove func()) func() {
	var before []netip.Addr
	return func() {
		if now := registry.Contested(); !slices.Equal(now, before) {
			before = now
			reprove()
		}
	}
}
