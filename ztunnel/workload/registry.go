// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

var (
	// ErrUnknownPeer: the address is inside the mesh CIDRs and nobody known
	// has it. Such a connection is refused, never tried in plaintext.
	ErrUnknownPeer = errors.New("unknown peer")
	// ErrNoEndpoint: the address is a service's, which has no such port or
	// nobody ready behind it.
	ErrNoEndpoint = errors.New("no endpoint")
	// ErrSource: the address is a load balancer's, whose Service does not let the
	// client in.
	ErrSource = errors.New("not in loadBalancerSourceRanges")
)

// Registry answers who is at an address. Readers load one immutable index;
// there is no lock, and nothing is called while the index is exchanged.
type Registry struct {
	// Node is the one whose pods ask: traffic policies and hints depend on it.
	// Set it before the first Replace. Empty: no endpoint is on the same node.
	Node string

	meshCIDRs []netip.Prefix
	index     atomic.Pointer[index]
	foreign   atomic.Pointer[foreigners] // nil: none was ever named

	replacing sync.Mutex // one Replace at a time
	syncOnce  sync.Once
	synced    chan struct{} // closed by the first Replace
}

// NewRegistry returns an empty registry, which refuses everything until its
// first snapshot. Addresses inside meshCIDRs, or inside Mesh.CIDRs of any snapshot
// so far, must be known to be reached.
func NewRegistry(meshCIDRs []netip.Prefix) *Registry {
	r := &Registry{synced: make(chan struct{})}
	for _, cidr := range meshCIDRs {
		r.meshCIDRs = append(r.meshCIDRs, unmapPrefix(cidr))
	}
	r.index.Store(&index{changed: make(chan struct{})})
	return r
}

// Replace puts a snapshot in force. The registry owns mesh from here on.
func (r *Registry) Replace(mesh Mesh) {
	r.replacing.Lock()
	defer r.replacing.Unlock()
	old := r.index.Load()
	keepMembership(mesh.Workloads, old)
	mesh.CIDRs = keepCIDRs(mesh.CIDRs, old.mesh.CIDRs)
	r.index.Store(buildIndex(mesh, r.Node, old, func(addr netip.Addr) bool { return r.inside(mesh.CIDRs, addr) }))
	r.syncOnce.Do(func() { close(r.synced) })
	// Last: who wakes up finds the new index.
	close(old.changed)
}

// keepMembership leaves a pod of which no label says any more whether it is in
// the mesh what it was: a namespace's object that went is not a label that did.
// That a stored snapshot had it outside the mesh is too old to be kept.
func keepMembership(workloads []*Packed, before *index) {
	for i, w := range workloads {
		if !w.Undecided {
			continue
		}
		old := before.uid(w.UID)
		if old != nil && old.Namespace == w.Namespace && old.Name == w.Name && (old.Meshed || !before.mesh.Stored) {
			kept := *w
			kept.Meshed, kept.Undecided = old.Meshed, old.Undecided
			workloads[i] = &kept
		}
	}
}

// keepCIDRs adds those of before that are not held by one of now: addresses of the
// mesh do not become the world outside because a Node's object went.
func keepCIDRs(now, before []netip.Prefix) []netip.Prefix {
	if slices.Equal(now, before) {
		return now
	}
	kept := slices.Clone(now)
	for _, p := range before {
		held := func(q netip.Prefix) bool { return q.Bits() <= p.Bits() && q.Overlaps(p) }
		if !slices.ContainsFunc(now, held) {
			kept = append(kept, p)
		}
	}
	return kept
}

// Synced reports whether there was a first snapshot.
func (r *Registry) Synced() bool {
	select {
	case <-r.synced:
		return true
	default:
		return false
	}
}

// WaitSynced waits for the first snapshot.
func (r *Registry) WaitSynced(ctx context.Context) error {
	select {
	case <-r.synced:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the first snapshot of workloads: %w", context.Cause(ctx))
	}
}

// Changed returns a channel that is closed by the next Replace. To miss
// nothing, take the channel first and look second.
func (r *Registry) Changed() <-chan struct{} { return r.index.Load().changed }

// ByUID returns the pod of that UID.
func (r *Registry) ByUID(uid string) (Workload, bool) {
	return value(r.index.Load().uid(uid))
}

// ByAddr returns the pod which has that address. Pods in the node's network
// namespace and terminated ones have none of their own.
func (r *Registry) ByAddr(addr netip.Addr) (Workload, bool) {
	return value(r.index.Load().addr(addr.Unmap()))
}

// Local returns the pods of a node which could be enrolled: they live, and
// have a network namespace of their own. Sorted by namespace, name and UID.
func (r *Registry) Local(node string) []Workload {
	idx := r.index.Load()
	local := idx.local
	if node != idx.here.node {
		local = idx.enrollable(node)
	}
	out := make([]Workload, len(local))
	for i, w := range local {
		out[i] = w.Workload()
	}
	return out
}

// Unsteerable returns the pods of the registry's own node that are not in the mesh
// although labels say so. They include pods in the node's network namespace.
func (r *Registry) Unsteerable() (out []Workload) {
	for _, w := range r.index.Load().apart {
		out = append(out, w.Workload())
	}
	return out
}

// Namespace returns what is known of a namespace.
func (r *Registry) Namespace(name string) (Namespace, bool) {
	ns, ok := r.index.Load().mesh.Namespaces[name]
	return ns, ok
}

// All returns the snapshot in force; the caller must not write to it.
func (r *Registry) All() Mesh { return r.index.Load().mesh }

// Destination is what a connection's original destination stands for.
type Destination struct {
	// Peer is the workload to talk to; its UID is empty if the destination is
	// no workload's of this mesh. See Workload.IsForeign. It is not to be written to:
	// other Destinations have it, too.
	Peer *Workload
	// Target is the address to reach, with any service resolved.
	Target netip.AddrPort
	// Service is the one that was addressed; nil if none was.
	Service *Service
	// Only: the Service has nobody but Target for the address that was dialled.
	Only bool
	// Node: Target is a node's own address, and no pod's.
	Node bool
}

// Resolve says what a connection of client's to dst means. Services with session
// affinity remember client. In order: a service's cluster
// IP, a pod, a service's load balancer address, a node with its ports for pods
// and services, then either an error (inside the mesh CIDRs), a workload of another trust
// domain or an error (inside that one's CIDRs), or a destination without peer (outside). It
// does not matter whether an address of another trust domain was dialled, or a service leads
// there. If a pod, a node or a cluster IP of this mesh has such an address, too, that is an
// error; a service's external address does not count there.
//
// A pod of which no label says whether it is in the mesh is refused: it may be,
// and plaintext would be a guess.
func (r *Registry) Resolve(client netip.Addr, dst netip.AddrPort) (Destination, error) {
	// Before the index: what is known then is a snapshot.
	if !r.Synced() {
		return Destination{}, fmt.Errorf("%w at %v: workloads are not known yet", ErrUnknownPeer, dst)
	}
	return r.ground().resolve(client, dst)
}

func (g ground) resolve(client netip.Addr, dst netip.AddrPort) (Destination, error) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	d, err := g.destination(client.Unmap(), dst)
	if d.Peer == nil {
		d.Peer = &nobody
	}
	if err == nil && d.Peer.Undecided {
		return Destination{}, fmt.Errorf("%w at %v: whether pod %v is in the mesh is not known: no label says so",
			ErrUnknownPeer, d.Target, d.Peer)
	}
	if err != nil {
		return d, err
	}
	return g.abroad(d, dst.Addr())
}

// destination is what this mesh knows at dst.
func (g ground) destination(client netip.Addr, dst netip.AddrPort) (Destination, error) {
	idx := g.idx
	node, isNode := idx.nodes[dst.Addr()]
	// Whoever may write a Service may give it any external address.
	_, abroad := g.isAbroad(dst.Addr())
	if v := idx.at(dst.Addr()); !abroad && v != nil && (v.has(dst.Port()) || !isNode) {
		return idx.pick(v, client, dst)
	}
	if peer := idx.addr(dst.Addr()); peer != nil {
		return Destination{Peer: idx.shared.of(peer), Target: dst}, nil
	}
	if isNode {
		return idx.atNode(node, client, dst)
	}
	if g.inside(dst.Addr()) {
		return Destination{}, fmt.Errorf("%w at %v: no pod or service has this address", ErrUnknownPeer, dst)
	}
	return Destination{Target: dst}, nil
}

// Inside reports whether an address is of the mesh's own CIDRs, whoever has it.
func (r *Registry) Inside(addr netip.Addr) bool {
	return r.inside(r.index.Load().mesh.CIDRs, addr.Unmap())
}

func (g ground) inside(addr netip.Addr) bool { return g.registry.inside(g.idx.mesh.CIDRs, addr) }

// inside reports whether an address is one of the mesh, by the registry's own
// CIDRs or those of a snapshot.
func (r *Registry) inside(cidrs []netip.Prefix, addr netip.Addr) bool {
	addr = addr.WithZone("")
	holds := func(p netip.Prefix) bool { return p.Contains(addr) }
	return slices.ContainsFunc(r.meshCIDRs, holds) || slices.ContainsFunc(cidrs, holds)
}

// pick chooses one of the endpoints behind a service's address.
func (idx *index) pick(v *virtual, client netip.Addr, dst netip.AddrPort) (Destination, error) {
	port, ok := v.ports[dst.Port()]
	if !ok {
		return Destination{}, fmt.Errorf("%w: service %s/%s has no TCP port %d",
			ErrNoEndpoint, v.service.Namespace, v.service.Name, dst.Port())
	}
	if port.sources != nil && !slices.ContainsFunc(port.sources, func(p netip.Prefix) bool { return p.Contains(client) }) {
		return Destination{}, fmt.Errorf("client %v is %w of service %s/%s", client, ErrSource, port.service.Namespace, port.service.Name)
	}
	if port.elsewhere > 0 {
		return Destination{}, fmt.Errorf("%w: service %s/%s has internalTrafficPolicy Local and nobody on node %s, but %d elsewhere",
			ErrNoEndpoint, port.service.Namespace, port.service.Name, idx.here.node, port.elsewhere)
	}
	if len(port.endpoints) == 0 {
		return Destination{}, fmt.Errorf("%w: no ready pod behind %v of service %s/%s",
			ErrNoEndpoint, dst, port.service.Namespace, port.service.Name)
	}
	return idx.among(port.choice, client, port.service), nil
}

func (v *virtual) has(port uint16) bool {
	_, ok := v.ports[port]
	return ok
}

// Nobody returns the addresses and ports of services that have nobody ready,
// sorted. A connect to one of them can be refused at once. Node ports are not
// among them: they would be as many as nodes times services. Nor are services
// that have somebody elsewhere: that is refused with its reason in a record.
func (r *Registry) Nobody() []netip.AddrPort {
	g := r.ground()
	idx := g.idx
	var out []netip.AddrPort
	for _, virtuals := range []map[netip.Addr]*virtual{idx.vips, idx.lbs} {
		for addr, v := range virtuals {
			if _, abroad := g.isAbroad(addr); abroad || idx.at(addr) != v {
				continue // it is somebody else's first
			}
			for number, port := range v.ports {
				if len(port.endpoints) == 0 && port.elsewhere == 0 {
					out = append(out, netip.AddrPortFrom(addr, number))
				}
			}
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out
}

func value(w *Packed) (Workload, bool) {
	if w == nil {
		return Workload{}, false
	}
	return w.Workload(), true
}

// unmapPrefix turns ::ffff:10.0.0.0/104 into 10.0.0.0/8.
func unmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}
