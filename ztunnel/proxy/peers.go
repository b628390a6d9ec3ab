// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"iter"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// patientFor is how long after a workload joined the mesh its tunnels may be
// refused without meaning anything: its own node may learn of it later.
const patientFor = 10 * time.Second

// Peers knows of the mesh what a single look at the registry cannot tell:
// since when a workload is in it, and which services it stands behind.
type Peers struct {
	registry *workload.Registry

	mu       sync.Mutex
	followed <-chan struct{}              // Changed of the snapshot that was taken over; nil: none
	first    time.Time                    // when the first one was: all that it has in the mesh joined then
	seen     []*workload.Packed           // of the last one
	joined   map[string]time.Time         // by UID: who joined since the first, within patientFor of the last
	hosts    map[string]*workload.Service // by hostname
}

// NewPeers returns Peers that know nothing before Run.
func NewPeers(registry *workload.Registry) *Peers {
	return &Peers{registry: registry}
}

// Run follows the registry until ctx is done.
func (p *Peers) Run(ctx context.Context) error {
	for {
		changed := p.follow(time.Now())
		select {
		case <-changed:
		case <-p.aged():
			p.age(time.Now())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// aged returns a channel that tells when everybody who is new now is new no more; nil if
// nobody is.
func (p *Peers) aged() <-chan time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.joined) == 0 {
		return nil
	}
	return time.After(patientFor)
}

// age forgets who is new no more. A snapshot does so, too; but where no other comes, all
// pods of a cluster that came at once would be kept, for 67 bytes each.
func (p *Peers) age(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joined = stillNew(p.joined, now)
}

// follow takes over the registry's snapshot, unless it has, or there is none yet. It
// returns what is closed by the next.
func (p *Peers) follow(now time.Time) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := p.registry.Changed()
	if changed != p.followed && p.registry.Synced() {
		p.followed = changed
		p.observe(p.registry.All(), now)
	}
	return changed
}

// observe takes over a snapshot; mu is held.
func (p *Peers) observe(mesh workload.Mesh, now time.Time) {
	if p.first.IsZero() {
		p.first, p.seen = now, mesh.Workloads
	}
	p.joined = stillNew(p.joined, now)
	for uid := range newcomers(p.seen, mesh.Workloads) {
		p.joined[uid] = now
	}
	p.seen = mesh.Workloads
	p.hosts = make(map[string]*workload.Service, len(mesh.Services))
	for i := range mesh.Services {
		p.hosts[mesh.Services[i].Hostname()] = &mesh.Services[i]
	}
}

func stillNew(joined map[string]time.Time, now time.Time) map[string]time.Time {
	out := map[string]time.Time{}
	for uid, since := range joined {
		if now.Sub(since) < patientFor {
			out[uid] = since
		}
	}
	return out
}

// newcomers yields the UIDs of who is in the mesh and was not before. A pod that did
// not change has its place in both, and costs one comparison.
func newcomers(before, now []*workload.Packed) iter.Seq[string] {
	same := func(i int) bool { return i < len(before) && i < len(now) && before[i] == now[i] }
	return func(yield func(string) bool) {
		were := map[string]bool{} // in the mesh, of those that changed
		for i, w := range before {
			if !same(i) && w.Meshed {
				were[w.UID] = true
			}
		}
		for i, w := range now {
			if !same(i) && w.Meshed && !were[w.UID] && !yield(w.UID) {
				return
			}
		}
	}
}

// patience is how much longer a refused tunnel to w is dialled again.
func (p *Peers) patience(w *workload.Workload, now time.Time) time.Duration {
	p.follow(now)
	p.mu.Lock()
	defer p.mu.Unlock()
	since, ok := p.joined[w.UID]
	if !ok {
		since = p.first
	}
	return max(0, patientFor-now.Sub(since))
}

// service returns the service of that hostname, if addr is behind it. Only so
// may a name that a peer sent be believed.
func (p *Peers) service(hostname string, addr netip.AddrPort) *workload.Service {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.hosts[hostname]
	if s == nil || !slices.ContainsFunc(s.Ports, func(port workload.ServicePort) bool {
		return slices.ContainsFunc(port.Endpoints, func(e workload.Endpoint) bool { return e.Addr == addr })
	}) {
		return nil
	}
	return s
}
