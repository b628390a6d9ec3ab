// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"context"
	"fmt"
	"sync"
)

// Share bounds how many sockets the tunnels of a pod may have. It is shared
// with whatever else holds sockets for the pod.
type Share interface {
	Take() error // one more, or why not
	Give()       // one less
}

// unbounded is the Share of a Pool or Listener that was given none.
type unbounded struct{}

func (unbounded) Take() error { return nil }
func (unbounded) Give()       {}

// places is the Share of a Pool or a Listener. Whoever finds it used up asks an
// idle tunnel to end, and waits for its place.
type places struct {
	share Share
	idle  func() bool // asks an idle tunnel to end, and reports whether there was one

	mu      sync.Mutex // guards what follows
	leaving int        // tunnels that were asked to end
	waiting int        // for their places
	freed   chan struct{}
}

func newPlaces(share Share, idle func() bool) *places {
	if share == nil {
		share = unbounded{}
	}
	return &places{share: share, idle: idle, freed: make(chan struct{})}
}

// take takes a place. It waits only while a tunnel is leaving that nobody else
// waits for, and not for longer than that can take.
func (p *places) take(ctx context.Context) error {
	err := p.share.Take()
	if err == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	for {
		freed, expected := p.queue()
		if !expected {
			return overdrawn(err)
		}
		if err = p.share.Take(); err == nil { // since the last look
			p.unqueue()
			return nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			p.unqueue()
			p.left() // after so long, it has found something to do before it ended
			return overdrawn(err)
		}
		p.unqueue()
		if err = p.share.Take(); err == nil {
			return nil
		}
	}
}

// queue waits in line for a place, if one is expected. Whoever queued must unqueue.
func (p *places) queue() (freed <-chan struct{}, expected bool) {
	p.mu.Lock()
	expected = p.waiting < p.leaving
	p.mu.Unlock()
	if !expected && !p.yield(p.idle) {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting++
	return p.freed, true
}

func (p *places) unqueue() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

// yield has idle ask a tunnel to end, and reports whether there was one. It counts
// the tunnel first: it may be gone before idle returns.
func (p *places) yield(idle func() bool) bool {
	p.mu.Lock()
	p.leaving++
	p.mu.Unlock()
	if idle() {
		return true
	}
	p.left()
	return false
}

// give gives the place of a tunnel back, and wakes whoever waits for one.
func (p *places) give() {
	p.share.Give()
	p.left()
}

// left counts a tunnel that leaves no more, as it is gone, stays or never was.
// Whoever waits looks again.
func (p *places) left() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.leaving = max(0, p.leaving-1)
	if p.waiting > 0 {
		close(p.freed)
		p.freed = make(chan struct{})
	}
}

// overdrawn gives the reason of a Share its Cause.
func overdrawn(err error) error { return fmt.Errorf("%w: %w", ErrLimit, err) }
