// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync"
	"time"
)

// maxNodeInFlight is how many requests of one node wait or are worked on.
const maxNodeInFlight = 64

// limits keeps one node from taking the CA away from the others: a token
// bucket and a bound on what is in flight, for each.
type limits struct {
	rate, burst float64

	mu     sync.Mutex // guards what follows
	nodes  map[string]*usage
	pruned time.Time
}

// usage is one node's.
type usage struct {
	tokens   float64
	at       time.Time // of tokens
	inFlight int
}

func newLimits(rate float64, burst int) *limits {
	return &limits{rate: rate, burst: float64(burst), nodes: make(map[string]*usage)}
}

// take admits a request until release.
func (l *limits) take(node string, now time.Time) (release func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.prune(now)
	u := l.nodes[node]
	if u == nil {
		u = &usage{tokens: l.burst, at: now}
		l.nodes[node] = u
	}
	l.fill(u, now)
	if u.tokens < 1 || u.inFlight >= maxNodeInFlight {
		return nil, false
	}
	u.tokens--
	u.inFlight++
	return sync.OnceFunc(func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		u.inFlight--
	}), true
}

func (l *limits) fill(u *usage, now time.Time) {
	u.tokens = min(l.burst, u.tokens+l.rate*max(0, now.Sub(u.at).Seconds()))
	u.at = now
}

// prune forgets, once a minute, the nodes that have all they could have.
func (l *limits) prune(now time.Time) {
	if now.Sub(l.pruned) < time.Minute {
		return
	}
	l.pruned = now
	for node, u := range l.nodes {
		if l.fill(u, now); u.inFlight == 0 && u.tokens == l.burst {
			delete(l.nodes, node)
		}
	}
}
