// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"time"
)

// turns shares the processors among the pods whose connections begin. To ask a
// connection's questions and to dial is a tenth of a millisecond of work. Thousands of
// them at once would all be runnable, and what any other pod does would wait behind
// them. So a connection is begun only in a turn, a pod has some turns at a time, and
// the others of its connections wait where they came: in the accept queue of the pod's own
// listener, or in its tunnels.
//
// Of those who wait, whoever has fewest turns goes first, and of these whoever waits for longest. A
// turn is over when its connection waits for the network, is open or is refused. One
// that is longer than turnLong waits for something, too, and counts no more.
type turns struct {
	most, ofPod int           // turns of all pods, and of one, at once
	long        time.Duration // after which a turn counts no more

	mu      sync.Mutex // a leaf; guards what follows, each pod's count and each turn's state
	taken   []*turn    // the oldest first
	waiting []*turn    // in the order in which they came
}

// turnLong is many times what a turn takes on a processor of its own.
const turnLong = 2 * time.Millisecond

// newTurns is the turns of this process's processors. A pod by itself can keep all of
// them busy, and two pods can not keep a third waiting for longer than a turn.
func newTurns() *turns {
	n := runtime.GOMAXPROCS(0)
	return &turns{most: 2 * n, ofPod: n, long: turnLong}
}

// podTurns is one pod's. The nil podTurns has no bounds.
type podTurns struct {
	of    *turns
	taken int
}

func (t *turns) pod() *podTurns {
	if t == nil {
		return nil
	}
	return &podTurns{of: t}
}

// turn is leave to begin one connection: it waits, is taken, and is over.
type turn struct {
	pod   *podTurns
	state turnState
	since time.Time     // when it was taken
	begin chan struct{} // closed when it is taken
}

type turnState int

const (
	turnWaits turnState = iota
	turnTaken
	turnOver
)

// take waits for a turn, which the caller ends. After the end of ctx there is no need
// of one: what has been accepted is only finished.
func (p *podTurns) take(ctx context.Context) *turn {
	if p == nil {
		return nil
	}
	of := p.of
	t := &turn{pod: p}
	of.mu.Lock()
	defer of.mu.Unlock()
	of.waiting = append(of.waiting, t)
	of.grantLocked()
	for t.state == turnWaits {
		t.begin = make(chan struct{})
		of.awaitUnlocking(ctx, t)
		if ctx.Err() != nil {
			of.leaveLocked(t)
			return nil
		}
		of.expireLocked(time.Now())
		of.grantLocked()
	}
	return t
}

// awaitUnlocking waits until t is taken, or until a turn may have become too long; mu is
// held, and released meanwhile.
func (t *turns) awaitUnlocking(ctx context.Context, next *turn) {
	left := time.Until(t.taken[0].since.Add(t.long)) // somebody has one, or next had got it
	t.mu.Unlock()
	defer t.mu.Lock()
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-next.begin:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// end gives the turn back, once. The nil turn has nothing to give.
func (t *turn) end() {
	if t == nil {
		return
	}
	of := t.pod.of
	of.mu.Lock()
	defer of.mu.Unlock()
	of.endLocked(t)
	of.grantLocked()
}

func (t *turns) endLocked(old *turn) {
	if old.state != turnTaken {
		return
	}
	old.state = turnOver
	old.pod.taken--
	t.taken = slices.DeleteFunc(t.taken, func(other *turn) bool { return other == old })
}

// leaveLocked is the end of a turn that its caller wants no more.
func (t *turns) leaveLocked(old *turn) {
	t.endLocked(old)
	t.waiting = slices.DeleteFunc(t.waiting, func(other *turn) bool { return other == old })
	t.grantLocked()
}

// expireLocked ends the turns that are too long.
func (t *turns) expireLocked(now time.Time) {
	for len(t.taken) > 0 && now.Sub(t.taken[0].since) >= t.long {
		t.endLocked(t.taken[0])
	}
}

// grantLocked gives turns to those who wait, as long as there are any.
func (t *turns) grantLocked() {
	for len(t.taken) < t.most {
		next := -1
		for i, w := range t.waiting {
			if w.pod.taken < t.ofPod && (next < 0 || w.pod.taken < t.waiting[next].pod.taken) {
				next = i
			}
		}
		if next < 0 {
			return
		}
		w := t.waiting[next]
		t.waiting = slices.Delete(t.waiting, next, next+1)
		w.state, w.since = turnTaken, time.Now()
		w.pod.taken++
		t.taken = append(t.taken, w)
		if w.begin != nil {
			close(w.begin)
		}
	}
}
