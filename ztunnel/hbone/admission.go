// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"net/netip"
	"sync"
)

// admission bounds the handshakes that run at once, and those that wait. A
// handshake costs a signature and, with a peer that says nothing, ten seconds of
// a slot: so no address gets more than half of either.
type admission struct {
	slots, queue int

	mu      sync.Mutex // guards what follows
	running int
	waiting int
	sources map[netip.Addr]*source
	freed   chan struct{} // closed when a slot was freed
}

type source struct{ running, waiting int }

func newAdmission(slots, queue int) *admission {
	return &admission{slots: slots, queue: queue, sources: make(map[netip.Addr]*source), freed: make(chan struct{})}
}

// enter waits for a slot; false if too many wait already or ctx is done.
// Whoever got one must leave.
func (a *admission) enter(ctx context.Context, from netip.Addr) bool {
	a.mu.Lock()
	s := a.sources[from]
	if s == nil {
		s = new(source)
		a.sources[from] = s
	}
	if a.waiting >= a.queue || s.waiting >= max(1, a.queue/2) {
		a.tidy(from, s)
		a.mu.Unlock()
		return false
	}
	a.waiting++
	s.waiting++
	for a.running >= a.slots || s.running >= max(1, a.slots/2) {
		freed := a.freed
		a.mu.Unlock()
		select {
		case <-freed:
			a.mu.Lock()
		case <-ctx.Done():
			a.mu.Lock()
			a.waiting--
			s.waiting--
			a.tidy(from, s)
			a.mu.Unlock()
			return false
		}
	}
	a.waiting--
	s.waiting--
	a.running++
	s.running++
	a.mu.Unlock()
	return true
}

func (a *admission) leave(from netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sources[from]
	a.running--
	s.running--
	a.tidy(from, s)
	close(a.freed)
	a.freed = make(chan struct{})
}

// tidy forgets an address that has nothing here; mu is held.
func (a *admission) tidy(from netip.Addr, s *source) {
	if *s == (source{}) {
		delete(a.sources, from)
	}
}
