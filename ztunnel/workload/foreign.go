// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// ForeignDomain is another trust domain whose workloads pods of this mesh may dial.
type ForeignDomain struct {
	TrustDomain spiffeid.TrustDomain `json:"trustDomain"`
	// CIDRs hold the addresses of its pods. One of them that no workload has is refused.
	CIDRs     []netip.Prefix    `json:"cidrs"`
	Workloads []ForeignWorkload `json:"workloads"`
}

// ForeignWorkload is who must be at addresses of a ForeignDomain.
type ForeignWorkload struct {
	ID    spiffeid.ID  `json:"id"`
	Addrs []netip.Addr `json:"addresses"`
}

// foreigners are the workloads of other trust domains, arranged for look-ups. They are
// never written after SetForeign made them.
type foreigners struct {
	domains []ForeignDomain
	byAddr  map[netip.Addr]spiffeid.ID
	cidrs   []foreignCIDR // of domains, then those of before
}

type foreignCIDR struct {
	netip.Prefix
	of spiffeid.TrustDomain
}

// SetForeign says which workloads of other trust domains there are, and all of them. CIDRs
// stay: an address of another mesh does not become one of the world outside, to which
// plaintext may go, because a list does not name it any more.
func (r *Registry) SetForeign(domains []ForeignDomain) {
	r.replacing.Lock()
	defer r.replacing.Unlock()
	next := &foreigners{domains: domains, byAddr: map[netip.Addr]spiffeid.ID{}}
	for _, d := range domains {
		for _, cidr := range d.CIDRs {
			next.cidrs = append(next.cidrs, foreignCIDR{unmapPrefix(cidr), d.TrustDomain})
		}
		for _, w := range d.Workloads {
			for _, addr := range w.Addrs {
				next.byAddr[addr.Unmap()] = w.ID
			}
		}
	}
	if before := r.foreign.Load(); before != nil {
		for _, old := range before.cidrs {
			held := func(c foreignCIDR) bool { return c.Bits() <= old.Bits() && c.Overlaps(old.Prefix) }
			if !slices.ContainsFunc(next.cidrs, held) {
				next.cidrs = append(next.cidrs, old)
			}
		}
	}
	r.foreign.Store(next)
}

// Foreign returns what SetForeign was told last; the caller must not write to it.
func (r *Registry) Foreign() []ForeignDomain {
	if f := r.foreign.Load(); f != nil {
		return f.domains
	}
	return nil
}

// ExpectsForeign reports whether a workload of another trust domain is expected at an
// address now.
func (r *Registry) ExpectsForeign(id spiffeid.ID, addr netip.Addr) bool {
	f := r.foreign.Load()
	return f != nil && !id.IsZero() && f.byAddr[addr.Unmap()] == id
}

// isAbroad reports whether an address is another trust domain's, and of no CIDR of this mesh.
// cidrs are those of the snapshot.
func (r *Registry) isAbroad(cidrs []netip.Prefix, addr netip.Addr) (of spiffeid.TrustDomain, is bool) {
	f := r.foreign.Load()
	if f == nil {
		return of, false
	}
	addr = addr.WithZone("")
	at := slices.IndexFunc(f.cidrs, func(c foreignCIDR) bool { return c.Contains(addr) })
	if at < 0 || r.inside(cidrs, addr) {
		return of, false
	}
	return f.cidrs[at].of, true
}

// abroad is what a destination that no workload of the mesh has means if it is in another
// trust domain: a workload there, or an error. What else this mesh knows at such an address
// is in contradiction to that, and plaintext would be a guess.
func (r *Registry) abroad(d Destination) (Destination, error) {
	addr := d.Target.Addr()
	of, is := r.isAbroad(r.index.Load().mesh.CIDRs, addr)
	if !is || d.Peer.Meshed {
		return d, nil
	}
	id, named := r.foreign.Load().byAddr[addr]
	switch {
	case d.Node:
		return Destination{}, fmt.Errorf("%w at %v: the address is of the trust domain %v by -foreign-workloads, and of a node of this mesh", ErrUnknownPeer, d.Target, of)
	case d.Peer.Name != "":
		return Destination{}, fmt.Errorf("%w at %v: the address is of the trust domain %v by -foreign-workloads, and of pod %v of this mesh", ErrUnknownPeer, d.Target, of, d.Peer)
	case !named:
		return Destination{}, fmt.Errorf("%w at %v: the address is of the trust domain %v, and -foreign-workloads names no workload there", ErrUnknownPeer, d.Target, of)
	}
	// No names: a namespace there is none of this mesh, and no policy of ours is about it.
	d.Peer = Workload{ID: id, Addrs: []netip.Addr{addr}, Meshed: true}
	return d, nil
}

// IsForeign reports whether w is a workload of another trust domain, as Resolve returns it:
// all that is known of it is its SPIFFE ID and the address that was asked for.
func (w *Workload) IsForeign() bool { return w.Name == "" && w.Meshed && !w.ID.IsZero() }
