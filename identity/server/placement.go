// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/identity"
)

// catchUp is how long a request waits for our source to hear of a pod which
// its node knows already.
const catchUp = 1500 * time.Millisecond

// Running says that a pod of a ServiceAccount, which the mesh carries, runs on
// a node.
type Running struct {
	Node           string
	ServiceAccount identity.ServiceAccount
}

// Agent is a pod that speaks for its node, or would, as it is now.
type Agent struct {
	UID, Name      string
	ServiceAccount identity.ServiceAccount
	Node           string
	Addrs          []netip.Addr // where its requests come from, unless they are translated
}

// Placement is what runs where, by the CA's own source: a node's word is not
// enough, or root on one node could have every identity.
type Placement struct {
	mu      sync.Mutex // guards what follows
	running map[Running]struct{}
	agents  map[string]Agent // by UID
	changed chan struct{}    // closed by the next Replace
}

// NewPlacement returns one that knows of nothing yet.
func NewPlacement() *Placement {
	return &Placement{changed: make(chan struct{})}
}

// Replace takes over the full picture.
func (p *Placement) Replace(running []Running, agents []Agent) {
	set := make(map[Running]struct{}, len(running))
	for _, r := range running {
		set[r] = struct{}{}
	}
	byUID := make(map[string]Agent, len(agents))
	for _, a := range agents {
		byUID[a.UID] = a
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running, p.agents = set, byUID
	close(p.changed)
	p.changed = make(chan struct{})
}

// Synced reports whether the picture has been given once.
func (p *Placement) Synced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running != nil
}

// RunsOn reports whether a pod of sa runs on node. Before it says no, it waits
// a moment for the source.
func (p *Placement) RunsOn(ctx context.Context, node string, sa identity.ServiceAccount) bool {
	return p.wait(ctx, func() bool {
		_, found := p.running[Running{node, sa}]
		return found
	})
}

// Agent returns the pod of that UID if it speaks for a node. Before it says no, it
// waits a moment for the source.
func (p *Placement) Agent(ctx context.Context, uid string) (a Agent, found bool) {
	found = p.wait(ctx, func() (found bool) {
		a, found = p.agents[uid]
		return found
	})
	return a, found
}

// agent does not wait.
func (p *Placement) agent(uid string) (Agent, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, found := p.agents[uid]
	return a, found
}

// wait asks found, with p.mu held, until it is true, or for a moment.
func (p *Placement) wait(ctx context.Context, found func() bool) bool {
	limit := time.NewTimer(catchUp)
	defer limit.Stop()
	for {
		p.mu.Lock()
		is, changed := found(), p.changed
		p.mu.Unlock()
		if is {
			return true
		}
		select {
		case <-changed:
		case <-limit.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
}
