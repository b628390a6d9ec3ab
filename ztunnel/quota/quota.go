// SPDX-License-Identifier: Apache-2.0

// Package quota divides what a process has among its pods. A pod may hold Generous
// times what is left for all. So one pod gets at most four fifths, several that want
// everything get the same in the end, and something is always left for a pod that
// comes later. Whoever divides what a pod has goes by the same rule (Fair).
//
// Some things cannot be refused any more when they come. What a pod holds of them
// beyond its share counts against itself alone.
package quota

import (
	"sync"
	"sync/atomic"
)

// Generous is how often a pod may hold what is left: less, and a pod by itself
// could not hold 10,000 connections with the usual 20,000 descriptors.
const Generous = 4

// Resource is something that pods share.
type Resource struct {
	size  atomic.Int64
	least int64 // a pod gets so much while there is any left

	mu     sync.Mutex   // a leaf; held to change what follows, and a Part's
	used   atomic.Int64 // what all pods hold
	within atomic.Int64 // of used: within their shares
}

// Part is what one pod holds of a Resource.
type Part struct {
	of           *Resource
	held, within atomic.Int64 // as in Resource
}

// New returns a Resource of a size, of which a pod gets least while there is any left.
func New(size, least int64) *Resource {
	r := &Resource{least: least}
	r.size.Store(size)
	return r
}

// Resize changes the size. Nobody loses what it holds.
func (r *Resource) Resize(size int64) { r.size.Store(size) }

// Size is how much there is.
func (r *Resource) Size() int64 { return r.size.Load() }

// Used is how much of it pods hold; that may be more than there is.
func (r *Resource) Used() int64 { return r.used.Load() }

// Part returns the part of one more pod, which holds nothing yet.
func (r *Resource) Part() *Part { return &Part{of: r} }

// Held is how much the pod holds.
func (p *Part) Held() int64 { return p.held.Load() }

// Take takes n, if the pod's share has them.
func (p *Part) Take(n int64) bool {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	if p.held.Load()+n > p.Share(0) {
		return false
	}
	p.add(n)
	return true
}

// Add counts n that the pod holds now, whatever its share, or holds no more, if n is
// negative.
func (p *Part) Add(n int64) {
	p.of.mu.Lock()
	defer p.of.mu.Unlock()
	p.add(n)
}

// add counts as within the share what was so before, and what there is room for now.
// of.mu is held.
func (p *Part) add(n int64) {
	was, held := p.within.Load(), p.held.Add(n)
	within := min(held, max(was, p.Share(0)))
	p.within.Store(within)
	p.of.used.Add(n)
	p.of.within.Add(within - was)
}

// Share is how much the pod may hold, if there were extra more of the Resource than
// there are.
func (p *Part) Share(extra int64) int64 {
	rest := p.of.size.Load() + extra - (p.of.within.Load() - p.within.Load()) // that no other pod has
	return Fair(rest, p.of.least)
}

// Fair is how much one may hold of what nobody else has: Generous times what it leaves,
// or least, if that is more and there.
func Fair(rest, least int64) int64 { return max(Generous*rest/(Generous+1), min(least, rest), 0) }

// Over reports that the pod holds more than Share.
func (p *Part) Over(extra int64) bool { return p.held.Load() > p.Share(extra) }
