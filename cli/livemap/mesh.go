// SPDX-License-Identifier: Apache-2.0

package livemap

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/culvert-mesh/culvert/cli/fleet"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// mesh is what one node knows of all of it. Each knows the same, so that one is enough.
type mesh struct {
	node      string // empty: no node answered
	workloads []workload.Workload
	policies  policy.Objects
}

// meshOf is what the first node knows that answered and has workloads, or else that answered.
func meshOf(nodes []fleet.Node) mesh {
	i := slices.IndexFunc(nodes, func(n fleet.Node) bool { return len(n.Dump.Workloads) > 0 })
	if i < 0 {
		i = slices.IndexFunc(nodes, func(n fleet.Node) bool { return n.Problem == "" })
	}
	if i < 0 {
		return mesh{}
	}
	return mesh{nodes[i].Name, nodes[i].Dump.Workloads, nodes[i].Dump.Policies}
}

func endOf(w workload.Workload) fleet.End {
	return fleet.End{Namespace: w.Namespace, Workload: cmp.Or(w.Owner, w.Name)}
}

// byUID says of which end a pod is.
func (m *mesh) byUID() map[string]fleet.End {
	all := make(map[string]fleet.End, len(m.workloads))
	for _, w := range m.workloads {
		all[w.UID] = endOf(w)
	}
	return all
}

// owners says whose an address is.
func (m *mesh) owners() map[netip.Addr]fleet.End {
	all := map[netip.Addr]fleet.End{}
	for _, w := range m.workloads {
		for _, addr := range w.Addrs {
			if !w.Terminated && !w.HostNetwork {
				all[addr.Unmap()] = endOf(w)
			}
		}
	}
	return all
}

// pods says whose a pod is, by NAMESPACE/POD.
func (m *mesh) pods() owned {
	all := owned{}
	for _, w := range m.workloads {
		all[w.String()] = cmp.Or(w.Owner, w.Name)
	}
	return all
}
