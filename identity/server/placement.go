// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
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

// Placement is what runs where, by the CA's own source: a node's word is not
// enough, or root on one node could have every identity.
type Placement struct {
	mu      sync.Mutex // guards what follows
	running map[Running]struct{}
	changed chan struct{} // closed by the next Replace
}

// NewPlacement returns one that knows of nothing yet.
func NewPlacement() *Placement {
	return &Placement{changed: make(chan struct{})}
}

// Replace takes over the full picture.
func (p *Placement) Replace(running []Running) {
	set := make(map[Running]struct{}, len(running))
	for _, r := range running {
		set[r] = struct{}{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running = set
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
	limit := time.NewTimer(catchUp)
	defer limit.Stop()
	for {
		found, changed := p.look(Running{node, sa})
		if found {
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

func (p *Placement) look(r Running) (bool, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, found := p.running[r]
	return found, p.changed
}
