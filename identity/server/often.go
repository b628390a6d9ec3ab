// SPDX-License-Identifier: Apache-2.0

package server

import (
	"slices"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// often bounds how often a node asks for one identity: a certificate lasts for 25 s at
// least, so once in 5 s is more than any node of good will needs. A pod that is new may
// always have one.
type often struct {
	each rate.Limit

	mu      sync.Mutex // guards what follows
	held    map[place]*held
	cleaned time.Time
}

// held is what a node has of one ServiceAccount.
type held struct {
	left  rate.Left
	pods  []string  // for which it was asked
	until time.Time // when the last certificate ends
}

func newOften(perSecond float64, burst int) *often {
	return &often{each: rate.Limit{PerSecond: perSecond, Burst: float64(burst)}, held: make(map[place]*held)}
}

// take allows a certificate for those pods, which lasts for ttl, or says how long to wait
// for the next. It reports whether the node renews one.
func (o *often) take(at place, pods []string, ttl time.Duration) (renewal bool, wait time.Duration, ok bool) {
	now := time.Now()
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clean(now)
	h := o.held[at]
	if h == nil {
		h = new(held)
		o.held[at] = h
	}
	renewal = now.Before(h.until) && !slices.ContainsFunc(pods, func(pod string) bool { return !slices.Contains(h.pods, pod) })
	if !renewal {
		h.left = rate.Left{}
	}
	if !h.left.Spend(o.each) {
		return renewal, h.left.Wait(o.each), false
	}
	h.pods, h.until = pods, now.Add(ttl)
	return renewal, 0, true
}

// clean forgets, once a minute, what has ended.
func (o *often) clean(now time.Time) {
	if now.Sub(o.cleaned) < time.Minute {
		return
	}
	o.cleaned = now
	for at, h := range o.held {
		if now.After(h.until) {
			delete(o.held, at)
		}
	}
}
