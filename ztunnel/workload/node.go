// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"net/netip"
)

// Node is a node of the cluster. What its own addresses lead to, but for the
// ports of services and pods, is not in the mesh.
type Node struct {
	Name   string // empty: not known
	Region string // empty: it is in none
	Zone   string // likewise
	Addrs  []netip.Addr
}

// Locality is where a node is. Empty: not known.
type Locality struct{ Region, Zone string }

// Locality is where a node is, by its name: the zero value of one that says nothing.
func (r *Registry) Locality(node string) Locality { return r.index.Load().localities[node] }

// HostPort is a port of a pod's node that leads to the pod.
type HostPort struct {
	Addr netip.Addr // of the node; unspecified: all of that family; the zero Addr: all
	Port uint16     // of the node
	To   uint16     // of the pod
}

// hostPort is the pod that a port of its node leads to.
type hostPort struct {
	addr netip.AddrPort
	peer *Packed
}

// nodePort is what a port of every node leads to.
type nodePort struct {
	service   *Service
	four, six nodePortFamily
}

type nodePortFamily struct {
	choice            // for connections from here to this node's port
	all    []endpoint // of Service.Local, for other nodes' ports; else nil
}

// addNodes needs all workloads added.
func (idx *index) addNodes() {
	for _, n := range idx.mesh.Nodes {
		if where := (Locality{n.Region, n.Zone}); where != (Locality{}) {
			idx.localities[n.Name] = where
		}
		if n.Name == idx.here.node {
			idx.here.zone = n.Zone
		}
		for _, addr := range n.Addrs {
			idx.addNode(addr, n.Name)
		}
	}
	addrs := map[string][]netip.Addr{}
	for addr, name := range idx.nodes {
		addrs[name] = append(addrs[name], addr)
	}
	for _, w := range idx.ported {
		for _, p := range w.HostPorts {
			idx.addHostPort(w, p, addrs[w.Node])
		}
	}
}

// addNode lets no name go for none.
func (idx *index) addNode(addr netip.Addr, name string) {
	addr = addr.Unmap()
	if idx.nodes[addr] == "" {
		idx.nodes[addr] = name
	}
}

// addHostPort gives a node's port to a pod of that node. A pod without an
// address of the family gets nothing there.
func (idx *index) addHostPort(w *Packed, p HostPort, node []netip.Addr) {
	for _, at := range node {
		only := p.Addr.IsValid() && p.Addr.Unmap() != at
		if only && !(p.Addr.IsUnspecified() && p.Addr.Is4() == at.Is4()) {
			continue
		}
		for _, own := range w.Addrs {
			own = own.Unmap()
			if own.Is4() != at.Is4() {
				continue
			}
			from := netip.AddrPortFrom(at, p.Port)
			if old, taken := idx.hostPorts[from]; !taken || supersedes(w, old.peer) {
				idx.hostPorts[from] = hostPort{addr: netip.AddrPortFrom(own, p.To), peer: w}
			}
			break
		}
	}
}

// addNodePorts gives the services' node ports to them; the first keeps a
// disputed one.
func (idx *index) addNodePorts(s *Service, inside func(netip.Addr) bool) {
	for _, port := range s.Ports {
		if _, taken := idx.nodePorts[port.NodePort]; port.NodePort == 0 || taken {
			continue
		}
		family := func(v4 bool) nodePortFamily {
			all := idx.endpoints(port.Endpoints, v4, inside)
			f := nodePortFamily{choice: newChoice(clusterEndpoints(all, idx.here), idx.clientsOf(s, port))}
			if s.Local {
				f.all = all
			}
			return f
		}
		idx.nodePorts[port.NodePort] = &nodePort{s, family(true), family(false)}
	}
}

// atNode says what a port of a node leads to: to a pod that has it for its own,
// to a service, or to the node itself.
func (idx *index) atNode(name string, client netip.Addr, dst netip.AddrPort) (Destination, error) {
	if e, ok := idx.hostPorts[dst]; ok {
		return Destination{Peer: idx.shared.of(e.peer), Target: e.addr}, nil
	}
	p := idx.nodePorts[dst.Port()]
	if p == nil {
		return Destination{Target: dst, Node: true}, nil
	}
	family := p.six
	if dst.Addr().Is4() {
		family = p.four
	}
	among := family.choice
	// As with kube-proxy, what a pod sends to its own node's port is not external.
	if own := name == idx.here.node && name != ""; p.service.Local && !own {
		among = choice{endpoints: localEndpoints(family.all, name), clients: among.clients}
	}
	if len(among.endpoints) == 0 {
		return Destination{}, fmt.Errorf("%w: no ready pod behind node port %v of service %s/%s",
			ErrNoEndpoint, dst, p.service.Namespace, p.service.Name)
	}
	return idx.among(among, client, p.service), nil
}

// among chooses one of the endpoints of a service for a client.
func (idx *index) among(c choice, client netip.Addr, s *Service) Destination {
	e := c.choose(client)
	_, node := idx.nodes[e.addr.Addr()]
	return Destination{Peer: idx.shared.of(e.peer), Target: e.addr, Service: s, Only: len(c.endpoints) == 1, Node: node}
}
