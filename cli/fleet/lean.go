// SPDX-License-Identifier: Apache-2.0

package fleet

import (
	"context"
	"sync"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
)

// Lean asks every ztunnel of a source as Nodes does. What each of them knows of the whole mesh
// (workloads, policies, Services) stays with the first that answered and knows workloads, and is
// dropped from the others as soon as they are read: of 200 nodes it would be there 200 times.
func Lean(ctx context.Context, source Source) ([]Node, error) {
	targets, err := source.Ztunnels(ctx)
	if err != nil {
		return nil, err
	}
	l := lean{nodes: make([]Node, len(targets)), holder: len(targets)}
	each(ctx, targets, func(i int, t Target) { l.take(i, t.node(ctx)) })
	return withoutAgain(l.nodes), nil // the holder stays: of one node it is the first that knows workloads
}

// lean is what was answered so far.
type lean struct {
	mu     sync.Mutex // guards what follows
	nodes  []Node
	holder int // that knows the mesh; behind the last node: none yet
}

func (l *lean) take(i int, n Node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[i] = n
	if len(n.Dump.Workloads) == 0 || i > l.holder {
		l.nodes[i].Dump.dropMesh()
		return
	}
	if l.holder < len(l.nodes) {
		l.nodes[l.holder].Dump.dropMesh()
	}
	l.holder = i
}

func (d *Dump) dropMesh() {
	d.Workloads, d.Policies, d.Services, d.Network = nil, policy.Objects{}, Services{}, nil
}
