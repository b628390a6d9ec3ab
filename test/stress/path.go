// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"os"
	"sync"
)

// path is what lies between the two nodes: packets are read from the TUN device
// of one and written to the other's. So TCP is from end to end, and an
// acknowledgement means what it says: a relay of bytes would acknowledge what it
// may yet lose.
type path struct {
	lanes sync.WaitGroup
	ends  [2]*os.File

	mu    sync.Mutex
	rng   *rand.Rand
	now   conditions
	known map[flow]fate
}

// fate is what becomes of the packets of a flow.
type fate int

const (
	pass   fate = iota
	lose        // a middlebox forgot the flow
	refuse      // the machine behind was started anew: it answers with RST
)

func newPath(a, b *os.File, rng *rand.Rand) *path {
	p := &path{ends: [2]*os.File{a, b}, rng: rng, now: fine, known: make(map[flow]fate)}
	for _, l := range []*lane{newLane(p, a, b), newLane(p, b, a)} {
		p.lanes.Go(l.take)
		p.lanes.Go(l.send)
		p.lanes.Go(l.deliver)
	}
	return p
}

// judge is what becomes of one packet, and under which conditions.
func (p *path) judge(pkt packet) (flow, conditions, fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f, ok := pkt.flow()
	if !ok {
		return f, p.now, pass // neighbours and the like
	}
	if _, seen := p.known[f]; !seen || pkt.has(flagSYN) && !pkt.has(flagACK) {
		p.known[f] = pass
	}
	fate := p.known[f]
	switch {
	case pkt.has(flagRST) && fate == refuse, p.now.out, p.rng.Float64() < p.now.loss:
		fate = lose
	}
	return f, p.now, fate
}

// set changes what the path is like.
func (p *path) set(c conditions) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now = c
}

// conditions are those of now.
func (p *path) conditions() conditions {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.now
}

// doom gives every flow that there is a fate. New ones pass.
func (p *path) doom(fate fate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for f, was := range p.known {
		if was == pass {
			p.known[f] = fate
		}
	}
}

func (p *path) close() {
	for _, end := range p.ends {
		end.Close()
	}
	p.lanes.Wait()
}
