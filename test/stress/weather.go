// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

var fine = conditions{rate: 100 * megabyte}

// weather is what the path and the nodes go through. Slow, long and lossy paths
// and rotations are calm: nobody may notice. Cuts, outages and restarts are rough.
type weather struct {
	path  *path
	nodes []*node
	talks *talks
	rng   *rand.Rand

	mu     sync.Mutex
	roughs []span
	diary  []event
}

// event is what the weather did, for whoever looks into a fault.
type event struct {
	at   time.Time
	what string
}

func (w *weather) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.diary = append(w.diary, event{time.Now(), fmt.Sprintf(format, args...)})
}

// during tells what happened in that time, and a little before.
func (w *weather) during(from, to time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var s strings.Builder
	for _, e := range w.diary {
		if e.at.After(from.Add(-3*time.Second)) && e.at.Before(to) {
			fmt.Fprintf(&s, "\n    weather at %s: %s", stamp(e.at), e.what)
		}
	}
	return s.String()
}

type span struct{ from, to time.Time }

// aftermath is how long after a rough time it may still be felt: a handshake
// whose peer has gone ends after ten seconds, and all who need the tunnel wait.
const aftermath = 12 * time.Second

// calm reports that nothing rough came near that time. What is rough when it
// begins may end talks that began before.
func (w *weather) calm(from, to time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.roughs {
		if from.Before(s.to.Add(aftermath)) && s.from.Before(to) {
			return false
		}
	}
	return true
}

// rough does what breaks connections.
func (w *weather) rough(f func()) {
	w.mu.Lock()
	w.roughs = append(w.roughs, span{time.Now(), time.Now().Add(time.Hour)})
	i := len(w.roughs) - 1
	w.mu.Unlock()
	f()
	w.mu.Lock()
	w.roughs[i].to = time.Now()
	w.mu.Unlock()
}

// quick is a path that moves a handshake in no time.
const quick = 200 << 10

// rates are of a path, in bytes a second.
var rates = []int{4 << 10, 16 << 10, 64 << 10, 200 << 10, megabyte, 10 * megabyte, 100 * megabyte}

func (w *weather) draw() conditions {
	c := conditions{rate: rates[w.rng.IntN(len(rates))]}
	if w.rng.IntN(2) == 0 {
		c.delay = time.Duration(w.rng.IntN(40)) * time.Millisecond
	}
	if w.rng.IntN(3) == 0 {
		c.loss = 0.03 * w.rng.Float64()
	}
	return c
}

// run changes the path every few seconds and now and then does something to it
// or the nodes, until ctx is done. Then the weather is fine.
func (w *weather) run(ctx context.Context) {
	defer func() { w.path.set(fine) }()
	for begin := time.Now(); ; {
		c := w.draw()
		w.note("%d KB/s, delay %v, loss %.1f %%", c.rate>>10, c.delay, 100*c.loss)
		w.path.set(c)
		for range 1 + w.rng.IntN(5) {
			if !w.wait(ctx, time.Duration(300+w.rng.IntN(1200))*time.Millisecond) {
				return
			}
			// A slow path has its hands full with the handshakes of a few rotations.
			if c.rate >= quick || w.rng.IntN(8) == 0 {
				w.rotate()
			}
		}
		if time.Since(begin) > 20*time.Second {
			w.rough(func() { w.strike(ctx) })
			begin = time.Now()
		}
	}
}

func (w *weather) wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

// rotate has tunnels retired, by one end or both, and perhaps again in the handshake that
// this brings.
func (w *weather) rotate() {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if w.rng.IntN(4) == 0 {
		w.nodes[w.rng.IntN(len(w.nodes))].again.Store(true)
	}
	switch w.rng.IntN(4) {
	case 0:
		w.note("%s retires all tunnels", n.name)
		n.retire(true, true)
	case 1:
		w.note("%s retires the tunnels of its pool", n.name)
		n.retire(true, false)
	case 2:
		w.note("%s retires those of its listeners", n.name)
		n.retire(false, true)
	}
}

// strike is one rough thing.
func (w *weather) strike(ctx context.Context) {
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	switch w.rng.IntN(4) {
	case 0:
		w.note("every connection is refused from now on")
		w.path.doom(refuse)
	case 1:
		w.note("every connection is forgotten")
		w.path.doom(lose)
	case 2:
		w.note("outage")
		c := w.path.conditions()
		c.out = true
		w.path.set(c)
		w.wait(ctx, time.Duration(500+w.rng.IntN(7000))*time.Millisecond)
		c.out = false
		w.path.set(c)
		w.note("the outage is over")
	case 3:
		w.note("%s starts anew", n.name)
		n.halt()
		if err := n.start(); err != nil {
			w.talks.fault("does not start again", "%s: %v", n.name, err)
		}
	}
}
