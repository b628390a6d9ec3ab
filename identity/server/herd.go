// SPDX-License-Identifier: Apache-2.0

package server

import (
	"sync"
	"time"
)

const (
	// herdApart is how far apart the turns are that a herd gets: a core signs that fast,
	// with room to spare.
	herdApart = time.Millisecond
	// herdWithin is how late a turn is at most.
	herdWithin = 10 * time.Second
)

// herd spreads those that find no room, so that they do not all come again at once.
type herd struct {
	mu   sync.Mutex // guards what follows
	last time.Time  // the turn that was given last
}

// turn is how long one of the herd should wait.
func (h *herd) turn(now time.Time) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := h.last.Add(herdApart)
	if soonest := now.Add(busyFor); next.Before(soonest) || next.Sub(now) > herdWithin {
		next = soonest
	}
	h.last = next
	return next.Sub(now)
}
