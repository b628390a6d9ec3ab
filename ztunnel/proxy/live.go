// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// live is the open connections of a pod that a policy has allowed.
type live struct {
	mu    sync.Mutex
	conns map[direction]map[*connection]func() error
	// judged is the concern by which every open inbound connection is allowed; nil: not
	// one and the same.
	judged atomic.Pointer[policy.Concern]
}

// judgedBy notes that a connection, registered before, was judged by concern. On false it
// was by another than those before, and the next Recheck asks about all of them. Then the
// caller must ask again unless concern still holds: that Recheck may have been.
func (l *live) judgedBy(concern *policy.Concern) bool {
	if l.judged.Load() == concern {
		return true
	}
	l.judged.Store(nil)
	return false
}

func (l *live) add(c *connection, allowed func() error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conns == nil {
		l.conns = map[direction]map[*connection]func() error{inbound: {}, outbound: {}}
	}
	l.conns[c.direction][c] = allowed
}

func (l *live) remove(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.conns[c.direction], c)
}

// all returns the connections of these directions and their checks, to be asked without
// a lock.
func (l *live) all(of ...direction) map[*connection]func() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[*connection]func() error{}
	for _, d := range of {
		maps.Copy(all, l.conns[d])
	}
	return all
}

// Recheck asks the policies in force about every open connection that they may judge
// otherwise than before, and ends those that they do not allow any more. Call it after
// each change of policies or workloads has been put in force.
func (p *Pod) Recheck() {
	p.recheck(outbound)
	concern := p.concern(nil)
	if p.live.judged.Swap(concern) != concern || concern == nil {
		p.recheck(inbound)
	}
	p.recheckNetwork()
}

// concern is what the policies in force say of the pod. It changes twice in a snapshot that
// brings policies and labels of the pod. While nobody knows the pod it is that of before,
// which may be nil.
func (p *Pod) concern(before *workload.Workload) *policy.Concern {
	self := p.whoWeAre()
	if self == nil {
		self = before
	}
	if self == nil {
		return nil
	}
	return p.Policy.Concern(*self)
}

func (p *Pod) recheck(d direction) {
	for c, allowed := range p.live.all(d) {
		if err := allowed(); err != nil {
			c.end(err)
		}
	}
}

// end ends a connection that policies allowed, and do no more.
func (c *connection) end(err error) {
	c.cancel(fail(PolicyChanged, fmt.Errorf("connection closed due to policy change: %w", err)))
	c.cutIfOver()
}
