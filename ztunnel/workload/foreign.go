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
	listed  int           // of them are of domains
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
	next.listed = len(next.cidrs)
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

// FormerForeign returns what of the CIDRs of before stays refused, by the domain that had it.
// A Registry that is told it by SetForeign before Foreign answers as this one.
func (r *Registry) FormerForeign() (all []ForeignDomain) {
	f := r.foreign.Load()
	if f == nil {
		return nil
	}
	for _, c := range f.cidrs[f.listed:] {
		at := slices.IndexFunc(all, func(d ForeignDomain) bool { return d.TrustDomain == c.of })
		if at < 0 {
			at, all = len(all), append(all, ForeignDomain{TrustDomain: c.of})
		}
		all[at].CIDRs = append(all[at].CIDRs, c.Prefix)
	}
	return all
}

// ExpectsForeign reports whether a workload of another trust domain is expected at an
// address now. It is not where Resolve leads to no such workload.
func (r *Registry) ExpectsForeign(id spiffeid.ID, addr netip.Addr) bool {
	there, _, err := r.ground().foreignAt(addr.Unmap())
	return err == nil && !id.IsZero() && there == id
}

// Contested returns addresses that a list names and this mesh has, sorted: Resolve refuses
// them, or leads to what is of this mesh.
func (r *Registry) Contested() (all []netip.Addr) {
	g := r.ground()
	if g.foreign == nil {
		return nil
	}
	for addr := range g.foreign.byAddr {
		if there, _, err := g.foreignAt(addr); err != nil || there.IsZero() {
			all = append(all, addr)
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return all
}

// ground is who has which address at one moment. What is asked of it twice is answered by
// the same snapshot and the same list.
type ground struct {
	registry *Registry
	idx      *index
	foreign  *foreigners // nil: none was ever named
}

func (r *Registry) ground() ground { return ground{r, r.index.Load(), r.foreign.Load()} }

// isAbroad reports whether an address is another trust domain's, and of no CIDR of this mesh.
func (g ground) isAbroad(addr netip.Addr) (of spiffeid.TrustDomain, is bool) {
	if g.foreign == nil {
		return of, false
	}
	addr = addr.WithZone("")
	at := slices.IndexFunc(g.foreign.cidrs, func(c foreignCIDR) bool { return c.Contains(addr) })
	if at < 0 || g.inside(addr) {
		return of, false
	}
	return g.foreign.cidrs[at].of, true
}

// foreignAt is the workload at an address of another trust domain; zero: none is named, or
// the address is not abroad. It is an error if this mesh has the address, too: who is there
// would be a guess.
func (g ground) foreignAt(addr netip.Addr) (id spiffeid.ID, abroad bool, err error) {
	of, abroad := g.isAbroad(addr)
	if !abroad {
		return id, false, nil
	}
	if what := g.idx.whose(addr.WithZone("")); what != "" {
		return id, true, fmt.Errorf("the address is of the trust domain %v by -foreign-workloads, and of %s of this mesh", of, what)
	}
	if id = g.foreign.byAddr[addr]; id.IsZero() {
		return id, true, fmt.Errorf("the address is of the trust domain %v, and -foreign-workloads names no workload there", of)
	}
	return id, true, nil
}

// whose is what of the mesh has an address; empty: nothing. External addresses of Services
// are not asked: whoever may write a Service may give it any.
func (idx *index) whose(addr netip.Addr) string {
	if w := idx.addr(addr); w != nil {
		return fmt.Sprintf("pod %s/%s", w.Namespace, w.Name)
	}
	if _, is := idx.nodes[addr]; is {
		return "a node"
	}
	if v := idx.vips[addr]; v != nil {
		return fmt.Sprintf("Service %s/%s", v.service.Namespace, v.service.Name)
	}
	return ""
}

// abroad is what a destination means that was found for a connection to dst, if dst or what
// it leads to is in another trust domain: a workload there, or an error. What this mesh knows
// at such an address is in contradiction to that.
func (g ground) abroad(d Destination, dst netip.Addr) (Destination, error) {
	if dst != d.Target.Addr() {
		if _, _, err := g.foreignAt(dst); err != nil {
			return Destination{}, fmt.Errorf("%w at %v: %w", ErrUnknownPeer, dst, err)
		}
	}
	id, is, err := g.foreignAt(d.Target.Addr())
	if err != nil {
		return Destination{}, fmt.Errorf("%w at %v: %w", ErrUnknownPeer, d.Target, err)
	}
	if is {
		// No names: a namespace there is none of this mesh, and no policy of ours is about it.
		d.Peer = &Workload{ID: id, Addrs: []netip.Addr{d.Target.Addr()}, Meshed: true}
	}
	return d, nil
}

// IsForeign reports whether w is a workload of another trust domain, as Resolve returns it:
// all that is known of it is its SPIFFE ID and the address that was asked for.
func (w *Workload) IsForeign() bool { return w.Name == "" && w.Meshed && !w.ID.IsZero() }
