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
	byUID   table[string] // places in mesh.Workloads
	byAddr  table[netip.Addr]
	held    []held    // what byAddr leads to
	local   []*Packed // those of the node that could be enrolled
	apart   []*Packed // those of the node that are labelled, and yet not in the mesh
	ported  []*Packed // those that have ports of their nodes
	vips    map[netip.Addr]*virtual
	lbs     map[netip.Addr]*virtual
	changed chan struct{} // closed once this index is no longer in force

	nodes      map[netip.Addr]string // names, by address
	localities map[string]Locality   // of nodes that have one, by name
	hostPorts  map[netip.AddrPort]hostPort
	nodePorts  map[uint16]*nodePort
	clients    map[stickyPort]*clients
	runs       runs   // made later, as is
	shared     shared // this
}

// virtual is one virtual address. A cluster IP is one service's, a load
// balancer's address may be shared by several.
type virtual struct {
	service *Service // the first
	ports   map[uint16]virtualPort
}

type virtualPort struct {
	service   *Service
	choice                   // for connections from here
	elsewhere int            // how many endpoints are on other nodes, if that keeps them out
	sources   []netip.Prefix // of clients; nil: all
}

// buildIndex arranges a snapshot for the pods of a node, and takes over what before
// remembers; inside says whether an address must be known.
func buildIndex(mesh Mesh, node string, before *index, inside func(netip.Addr) bool) *index {
	mesh.Workloads = privateTakers(mesh.Workloads, node)
	addrs := 0
	for _, w := range mesh.Workloads {
		addrs += len(w.Addrs)
	}
	idx := &index{
		mesh:    mesh,
		here:    place{node: node},
		byUID:   newTable[string](len(mesh.Workloads)),
		byAddr:  newTable[netip.Addr](addrs),
		held:    make([]held, 0, addrs),
		vips:    make(map[netip.Addr]*virtual, len(mesh.Services)),
		lbs:     map[netip.Addr]*virtual{},
		changed: make(chan struct{}),

		nodes: map[netip.Addr]string{}, localities: map[string]Locality{}, hostPorts: map[netip.AddrPort]hostPort{}, nodePorts: map[uint16]*nodePort{},
		clients: map[stickyPort]*clients{},
	}
	for i := range mesh.Workloads {
		idx.addWorkload(i)
	}
	idx.local = idx.enrollable(node)
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
		idx.addService(s, slices.Concat(s.LoadBalancerIPs, s.ExternalIPs), idx.lbs, true, inside)
		idx.limitSources(s)
		idx.addNodePorts(s, inside)
	}
	idx.takeProbes()
	return idx
}

func (idx *index) addWorkload(number int) {
	w := idx.mesh.Workloads[number]
	if old := idx.uid(w.UID); old == nil || hasUID(w, old) {
		idx.byUID.put(w.UID, number, idx.isUID(w.UID))
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
	if len(w.HostPorts) > 0 && w.Node != "" {
		idx.ported = append(idx.ported, w)
	}
	for i, addr := range w.Addrs {
		addr = addr.Unmap()
		if old := idx.addr(addr); old == nil || supersedes(w, old) {
			idx.held = append(idx.held, held{uint32(number), uint32(i)})
			idx.byAddr.put(addr, len(idx.held)-1, idx.holds(addr))
		}
	}
}

// held is an address of a pod: the pod's place in Mesh.Workloads, and the address's
// in the pod.
type held struct{ pod, addr uint32 }

// uid is the pod of that UID, nil if there is none.
func (idx *index) uid(uid string) *Packed {
	number, ok := idx.byUID.get(uid, idx.isUID(uid))
	if !ok {
		return nil
	}
	return idx.mesh.Workloads[number]
}

func (idx *index) isUID(uid string) func(int) bool {
	return func(number int) bool { return idx.mesh.Workloads[number].UID == uid }
}

// addr is the pod that has the address, nil if none does.
func (idx *index) addr(addr netip.Addr) *Packed {
	number, ok := idx.byAddr.get(addr, idx.holds(addr))
	if !ok {
		return nil
	}
	return idx.mesh.Workloads[idx.held[number].pod]
}

func (idx *index) holds(addr netip.Addr) func(int) bool {
	return func(number int) bool {
		at := idx.held[number]
		return idx.mesh.Workloads[at.pod].Addrs[at.addr].Unmap() == addr
	}
}

// enrollable are the pods of a node that live and have a network namespace of their
// own, sorted by namespace, name and UID.
func (idx *index) enrollable(node string) (out []*Packed) {
	for _, w := range idx.mesh.Workloads {
		if node != "" && w.Node == node && !w.Terminated && !w.HostNetwork {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, byName)
	return out
}

// supersedes says which of two pods is at an address that both claim: the one
// in the mesh, or else the newer. Were it the newer alone, a status written
// for a pod outside the mesh would turn connections to its neighbour into
// plaintext; so they are refused instead, when the identity does not match.
func supersedes(w, old *Packed) bool {
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

// limitSources sets who may connect to the load balancer's addresses of a service. As
// with kube-proxy, its external IPs and node ports are for all.
func (idx *index) limitSources(s *Service) {
	for _, lb := range s.LoadBalancerIPs {
		lb = lb.Unmap()
		sources := slices.DeleteFunc(slices.Clone(s.SourceRanges), func(p netip.Prefix) bool { return p.Addr().Is4() != lb.Is4() })
		if len(sources) == 0 {
			continue
		}
		for number, port := range idx.lbs[lb].ports {
			if port.service == s {
				port.sources = sources
				idx.lbs[lb].ports[number] = port
			}
		}
	}
}

// at is the service that addr leads to, nil if it leads to none. A pod's own
// address is not a load balancer's, whatever a Service says.
func (idx *index) at(addr netip.Addr) *virtual {
	if v := idx.vips[addr]; v != nil {
		return v
	}
	if idx.addr(addr) != nil {
		return nil
	}
	return idx.lbs[addr]
}

// endpoints are those of one family. One that a client could not resolve by its own
// address is left out: a stale slice must not draw connections which would all be
// refused.
func (idx *index) endpoints(all []Endpoint, v4 bool, inside func(netip.Addr) bool) []endpoint {
	out := make([]endpoint, 0, len(all))
	for i := range all {
		addr := all[i].Addr.Addr()
		if addr.Is4() != v4 {
			continue
		}
		peer := idx.addr(addr)
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
func hasUID(a, b *Packed) bool {
	if a.Static != b.Static {
		return b.Static
	}
	sameName := a.Namespace == b.Namespace && a.Name == b.Name
	return newer(a, b) == (!a.Static || sameName)
}

// newer reports whether a takes over an address or UID from b: a pod's address
// is handed on before its object is gone, so the newest creation has it.
func newer(a, b *Packed) bool {
	return cmp.Or(cmp.Compare(a.created, b.created), -byName(a, b)) > 0
}

func byName(a, b *Packed) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}
