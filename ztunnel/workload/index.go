// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"cmp"
	"net/netip"
	"slices"
)

// index is one snapshot, arranged for look-ups. It is never written after
// buildIndex returned.
type index struct {
	mesh    Mesh
	here    place
	byUID   map[string]*Workload
	byAddr  map[netip.Addr]*Workload
	byNode  map[string][]*Workload
	apart   []*Workload // of the node, labelled and yet not in the mesh
	vips    map[netip.Addr]*virtual
	lbs     map[netip.Addr]*virtual
	changed chan struct{} // closed once this index is no longer in force

	nodes     map[netip.Addr]string // names, by address
	hostPorts map[netip.AddrPort]hostPort
	nodePorts map[uint16]*nodePort
	clients   map[stickyPort]*clients
}

// virtual is one virtual address. A cluster IP is one service's, a load
// balancer's address may be shared by several.
type virtual struct {
	service *Service // the first
	ports   map[uint16]virtualPort
}

type virtualPort struct {
	service   *Service
	choice        // for connections from here
	elsewhere int // how many endpoints are on other nodes, if that keeps them out
}

// buildIndex arranges a snapshot for the pods of a node, and takes over what before
// remembers; inside says whether an address must be known.
func buildIndex(mesh Mesh, node string, before *index, inside func(netip.Addr) bool) *index {
	if slices.ContainsFunc(mesh.Workloads, Workload.probesOthers) {
		mesh.Workloads = slices.Clone(mesh.Workloads) // takeProbes writes to them
	}
	idx := &index{
		mesh:    mesh,
		here:    place{node: node},
		byUID:   make(map[string]*Workload, len(mesh.Workloads)),
		byAddr:  make(map[netip.Addr]*Workload, len(mesh.Workloads)),
		byNode:  map[string][]*Workload{},
		vips:    make(map[netip.Addr]*virtual, len(mesh.Services)),
		lbs:     map[netip.Addr]*virtual{},
		changed: make(chan struct{}),

		nodes: map[netip.Addr]string{}, hostPorts: map[netip.AddrPort]hostPort{}, nodePorts: map[uint16]*nodePort{},
		clients: map[stickyPort]*clients{},
	}
	for i := range mesh.Workloads {
		idx.addWorkload(&mesh.Workloads[i])
	}
	for _, local := range idx.byNode {
		slices.SortFunc(local, byName)
	}
	idx.addNodes()
	idx.addClients(before, inside)
	services := make([]*Service, len(mesh.Services))
	for i := range mesh.Services {
		services[i] = &mesh.Services[i]
	}
	// The oldest service keeps a disputed address.
	slices.SortStableFunc(services, func(a, b *Service) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	for _, s := range services {
		idx.addService(s, s.VIPs, idx.vips, false, inside)
		idx.addService(s, s.LoadBalancerIPs, idx.lbs, true, inside)
		idx.addNodePorts(s, inside)
	}
	idx.takeProbes()
	return idx
}

func (idx *index) addWorkload(w *Workload) {
	if old := idx.byUID[w.UID]; old == nil || hasUID(w, old) {
		idx.byUID[w.UID] = w
	}
	if w.Terminated {
		return
	}
	if w.Unsteerable != "" && w.Node == idx.here.node {
		idx.apart = append(idx.apart, w)
	}
	if w.HostNetwork {
		for _, addr := range w.Addrs {
			idx.addNode(addr, w.Node)
		}
		return
	}
	if w.Node != "" {
		idx.byNode[w.Node] = append(idx.byNode[w.Node], w)
	}
	for _, addr := range w.Addrs {
		addr = addr.Unmap()
		if old := idx.byAddr[addr]; old == nil || supersedes(w, old) {
			idx.byAddr[addr] = w
		}
	}
}

// supersedes says which of two pods is at an address that both claim: the one
// in the mesh, or else the newer. Were it the newer alone, a status written
// for a pod outside the mesh would turn connections to its neighbour into
// plaintext; so they are refused instead, when the identity does not match.
func supersedes(w, old *Workload) bool {
	if w.Meshed != old.Meshed {
		return w.Meshed
	}
	if w.Undecided != old.Undecided {
		return w.Undecided // it may be in the mesh
	}
	return newer(w, old)
}

// addService needs all workloads and nodes added.
func (idx *index) addService(s *Service, addrs []netip.Addr, into map[netip.Addr]*virtual, shared bool, inside func(netip.Addr) bool) {
	for _, vip := range addrs {
		vip = vip.Unmap()
		v := into[vip]
		switch {
		case v == nil:
			v = &virtual{service: s, ports: make(map[uint16]virtualPort, len(s.Ports))}
			into[vip] = v
		case !shared:
			continue
		}
		for _, port := range s.Ports {
			if _, taken := v.ports[port.Port]; !taken {
				v.ports[port.Port] = idx.virtualPort(s, port, idx.endpoints(port.Endpoints, vip.Is4(), inside), shared)
			}
		}
	}
}

// virtualPort applies traffic policies. That for external traffic has no say over a
// load balancer's address here: kube-proxy, too, gives pods all endpoints there.
func (idx *index) virtualPort(s *Service, port ServicePort, all []endpoint, loadBalancer bool) virtualPort {
	c := idx.clientsOf(s, port)
	if !s.InternalLocal || loadBalancer {
		return virtualPort{service: s, choice: newChoice(clusterEndpoints(all, idx.here), c)}
	}
	local := localEndpoints(all, idx.here.node)
	if len(local) == 0 {
		return virtualPort{service: s, elsewhere: len(all)}
	}
	return virtualPort{service: s, choice: newChoice(local, c)}
}

// at is the service that addr leads to, nil if it leads to none. A pod's own
// address is not a load balancer's, whatever a Service says.
func (idx *index) at(addr netip.Addr) *virtual {
	if v := idx.vips[addr]; v != nil {
		return v
	}
	if _, pod := idx.byAddr[addr]; pod {
		return nil
	}
	return idx.lbs[addr]
}

// endpoints are those of one family. One that a client could not resolve by its own
// address is left out: a stale slice must not draw connections which would all be
// refused.
func (idx *index) endpoints(all []Endpoint, v4 bool, inside func(netip.Addr) bool) []endpoint {
	var out []endpoint
	for i := range all {
		addr := all[i].Addr.Addr()
		if addr.Is4() != v4 {
			continue
		}
		peer := idx.byAddr[addr]
		_, node := idx.nodes[addr]
		if peer == nil && !node && inside(addr) {
			continue
		}
		out = append(out, endpoint{all[i].Addr, peer, &all[i]})
	}
	return out
}

// hasUID reports whether a takes over a UID from b. A static pod's is what an
// annotation claims, which anybody may write on a pod of his own: a claim never
// beats an object's own UID, nor an older claim under another name.
func hasUID(a, b *Workload) bool {
	if a.Static != b.Static {
		return b.Static
	}
	sameName := a.Namespace == b.Namespace && a.Name == b.Name
	return newer(a, b) == (!a.Static || sameName)
}

// newer reports whether a takes over an address or UID from b: a pod's address
// is handed on before its object is gone, so the newest creation has it.
func newer(a, b *Workload) bool {
	return cmp.Or(a.Created.Compare(b.Created), -byName(a, b)) > 0
}

func byName(a, b *Workload) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}
