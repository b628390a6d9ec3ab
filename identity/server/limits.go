// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// maxNodeInFlight is how many requests of one node wait or are worked on.
const maxNodeInFlight = 64

// limits keeps one node from taking the CA away from the others: a rate and a
// bound on what is in flight, for each.
type limits struct {
	each rate.Limit

	mu     sync.Mutex // guards what follows
	nodes  map[string]*usage
	pruned time.Time
}

// usage is one node's.
type usage struct {
	requests rate.Left
	inFlight int
}

func newLimits(perSecond float64, burst int) *limits {
	return &limits{each: rate.Limit{PerSecond: perSecond, Burst: float64(burst)}, nodes: make(map[string]*usage)}
}

// take admits a request until release, or says how long to wait for the next.
func (l *limits) take(node string) (release func(), wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(time.Now())
	u := l.nodes[node]
	if u == nil {
		u = new(usage)
		l.nodes[node] = u
	}
	if u.inFlight >= maxNodeInFlight {
		return nil, busyFor, false
	}
	if !u.requests.Spend(l.each) {
		return nil, u.requests.Wait(l.each), false
	}
	u.inFlight++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.inFlight--
	}), 0, true
}

// prune forgets, once a minute, the nodes that have all they could have.
func (l *limits) prune(now time.Time) {
	if now.Sub(l.pruned) < time.Minute {
		return
	}
	l.pruned = now
	for node, u := range l.nodes {
		if u.inFlight == 0 && u.requests.Whole(l.each) {
			delete(l.nodes, node)
		}
	}
}
