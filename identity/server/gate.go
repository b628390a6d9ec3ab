// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"slices"
	"sync"
)

// everyNth of those that a full gate lets in is a renewal, however many wait for a first
// certificate.
const everyNth = 8

// gate lets as many sign at a time as there are cores: more would only take longer, each
// and together. Whoever has no certificate yet goes before those that renew one.
type gate struct {
	mu       sync.Mutex // guards what follows
	free     int
	first    []chan struct{} // those that wait, the longest first
	renewals []chan struct{}
	turn     int // of everyNth
}

// signerAtOnce is how many have a signer of the CA sign at a time. They wait for it, and take
// no core; it answers 16, and must have room for who asks whether it is there.
const signerAtOnce = 12

func newGate(cores int) *gate { return &gate{free: cores} }

// enter waits for a place, which lasts until leave; or for the end of ctx, with its error.
func (g *gate) enter(ctx context.Context, renewal bool) error {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
		return nil
	}
	lane := &g.first
	if renewal {
		lane = &g.renewals
	}
	mine := make(chan struct{})
	*lane = append(*lane, mine)
	g.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	i := slices.Index(*lane, mine)
	if i >= 0 {
		*lane = slices.Delete(*lane, i, i+1)
	}
	g.mu.Unlock()
	if i < 0 { // its turn came meanwhile
		g.leave()
	}
	return ctx.Err()
}

// leave gives the place to whoever is next.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	lane := &g.first
	if g.turn++; g.turn%everyNth == 0 || len(g.first) == 0 {
		lane = &g.renewals
	}
	if len(*lane) == 0 {
		lane = &g.first
	}
	if len(*lane) == 0 {
		g.free++
		return
	}
	close((*lane)[0])
	*lane = (*lane)[1:]
}
