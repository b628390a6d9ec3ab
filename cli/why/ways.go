// SPDX-License-Identifier: Apache-2.0

package why

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// way is one endpoint that a connection to a Service may be led to.
type way struct{ target netip.AddrPort }

// ways are the endpoints of a Service to which the source's node may lead, sorted; none
// if it leads nowhere.
func (w *World) ways(src source, dst destination) (all []*way) {
	if dst.service == nil || !dst.from.IsValid() {
		return nil
	}
	if dst.service.Headless {
		return headlessWays(dst)
	}
	most := 0
	for _, p := range dst.service.Ports {
		most = max(most, len(p.Endpoints))
	}
	r := registry(src.view, src.node())
	var targets []netip.AddrPort
	for range min(8*most+1, 512) { // each call chooses one of them
		d, err := r.Resolve(dst.from, dst.addr)
		if err != nil {
			return nil
		}
		if !slices.Contains(targets, d.Target) {
			targets = append(targets, d.Target)
		}
	}
	slices.SortFunc(targets, netip.AddrPort.Compare)
	for _, t := range targets {
		all = append(all, &way{t})
	}
	return all
}

// headlessWays are the pods to which the names of a Service lead: the port is the client's.
func headlessWays(dst destination) (all []*way) {
	for _, p := range dst.service.Ports {
		for _, e := range p.Endpoints {
			if p.Port == dst.addr.Port() && e.Addr.Addr().Is4() == dst.addr.Addr().Is4() {
				all = append(all, &way{netip.AddrPortFrom(e.Addr.Addr(), p.Port)})
			}
		}
	}
	return all
}

// node is where the source is; empty: nobody knows.
func (s source) node() string {
	if s.pod == nil {
		return ""
	}
	return s.pod.Node
}

// registry resolves as a node does: by what its ztunnel knows.
func registry(n *fleet.Node, of string) *workload.Registry {
	r := workload.NewRegistry(n.Dump.Config.MeshCIDRs)
	r.Node = cmp.Or(of, n.Dump.Config.NodeName)
	mesh := workload.Mesh{Workloads: workload.Pack(n.Dump.Workloads...), Services: slices.Clone(n.Dump.Services)}
	if m := n.Dump.Mesh; m != nil {
		mesh.CIDRs, mesh.Nodes = slices.Clone(m.CIDRs), slices.Clone(m.Nodes)
	}
	if f := n.Dump.Foreign; f != nil {
		r.SetForeign(f.Former)
		r.SetForeign(f.Domains)
	}
	r.Replace(mesh)
	return r
}
