// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
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

	mu     sync.Mutex
	joined map[string]time.Time         // by UID
	hosts  map[string]*workload.Service // by hostname
}

// NewPeers returns Peers that know nothing before Run.
func NewPeers(registry *workload.Registry) *Peers {
	return &Peers{registry: registry}
}

// Run follows the registry until ctx is done.
func (p *Peers) Run(ctx context.Context) error {
	for {
		changed := p.registry.Changed()
		p.observe(p.registry.All(), time.Now())
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// observe takes over a snapshot.
func (p *Peers) observe(mesh workload.Mesh, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	joined := make(map[string]time.Time, len(mesh.Workloads))
	for i := range mesh.Workloads {
		w := &mesh.Workloads[i]
		if !w.Meshed {
			continue
		}
		joined[w.UID] = now
		if since, ok := p.joined[w.UID]; ok {
			joined[w.UID] = since
		}
	}
	hosts := make(map[string]*workload.Service, len(mesh.Services))
	for i := range mesh.Services {
		hosts[mesh.Services[i].Hostname()] = &mesh.Services[i]
	}
	p.joined, p.hosts = joined, hosts
}

// patience is how much longer a refused tunnel to w is dialled again. A
// workload that was not observed yet joined just now.
func (p *Peers) patience(w *workload.Workload, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	since, ok := p.joined[w.UID]
	if !ok {
		return patientFor
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
