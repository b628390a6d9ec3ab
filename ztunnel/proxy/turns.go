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
// them. So a connection is begun only in a turn, and a pod has some turns at a time. The
// others of its connections wait in the accept queue of the pod's own listener, or, if
// they came in tunnels, in the pod's queue here.
//
// Of those who wait, whoever's pod has fewest turns goes first, and of these whoever waits
// for longest. A turn is over when its connection waits for somebody, is open or is refused. One
// that is longer than turnLong waits for something, too, and counts no more.
type turns struct {
	most, ofPod int           // turns of all pods, and of one, at once
	long        time.Duration // after which a turn counts no more

	mu      sync.Mutex  // a leaf; guards what follows, each pod's count and queue, and each turn's state
	taken   []*turn     // the oldest first
	waiting []*podTurns // the pods that have a queue
	came    uint64      // turns that had to wait
	late    *time.Timer // ends turns that are too long, while somebody waits
	ticking bool        // late is set
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
	queue []*turn // in the order in which they came
}

func (t *turns) pod() *podTurns {
	if t == nil {
		return nil
	}
	return &podTurns{of: t}
}

// turn is leave to begin one connection: it waits, is taken, and is over.
type turn struct {
	pod    *podTurns
	state  turnState
	number uint64        // of turns.came, if it had to wait
	since  time.Time     // when it was taken
	begin  chan struct{} // closed when it is taken, if it had to wait
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
	if of.freeLocked(p) { // nobody waits for it, or would have had it
		of.grantLocked(t)
		of.mu.Unlock()
		return t
	}
	of.queueLocked(t)
	of.mu.Unlock()
	select {
	case <-t.begin:
		return t
	case <-ctx.Done():
		of.leave(t)
		return nil
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
	of.shareLocked()
}

func (t *turns) endLocked(old *turn) {
	if old.state != turnTaken {
		return
	}
	old.state = turnOver
	old.pod.taken--
	t.taken = slices.DeleteFunc(t.taken, func(other *turn) bool { return other == old })
}

// queueLocked has a turn wait.
func (t *turns) queueLocked(next *turn) {
	t.came++
	next.number, next.begin = t.came, make(chan struct{})
	if len(next.pod.queue) == 0 {
		t.waiting = append(t.waiting, next.pod)
	}
	next.pod.queue = append(next.pod.queue, next)
	if !t.ticking {
		t.ticking = true
		t.tickLocked()
	}
}

// leave is the end of a turn that its caller wants no more.
func (t *turns) leave(old *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endLocked(old)
	if i := slices.Index(old.pod.queue, old); i >= 0 {
		t.unqueueLocked(old.pod, i)
	}
	t.shareLocked()
}

func (t *turns) unqueueLocked(p *podTurns, i int) {
	if p.queue = slices.Delete(p.queue, i, i+1); len(p.queue) == 0 {
		p.queue = nil
		t.waiting = slices.DeleteFunc(t.waiting, func(other *podTurns) bool { return other == p })
	}
}

// tickLocked has expire called when the oldest turn is too long. Who waits, waits for
// turns that are taken: so there is one.
func (t *turns) tickLocked() {
	left := time.Until(t.taken[0].since.Add(t.long))
	if t.late == nil {
		t.late = time.AfterFunc(left, t.expire)
	} else {
		t.late.Reset(left)
	}
}

// expire ends the turns that are too long.
func (t *turns) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for now := time.Now(); len(t.taken) > 0 && now.Sub(t.taken[0].since) >= t.long; {
		t.endLocked(t.taken[0])
	}
	t.shareLocked()
	if t.ticking = len(t.waiting) > 0; t.ticking {
		t.tickLocked()
	}
}

func (t *turns) freeLocked(p *podTurns) bool {
	return len(t.taken) < t.most && p.taken < t.ofPod
}

// shareLocked gives turns to those who wait, as long as there are any.
func (t *turns) shareLocked() {
	for {
		var next *podTurns
		for _, p := range t.waiting {
			if t.freeLocked(p) && (next == nil || p.taken < next.taken || p.taken == next.taken && p.queue[0].number < next.queue[0].number) {
				next = p
			}
		}
		if next == nil {
			return
		}
		first := next.queue[0]
		t.unqueueLocked(next, 0)
		t.grantLocked(first)
		close(first.begin)
	}
}

func (t *turns) grantLocked(next *turn) {
	next.state, next.since = turnTaken, time.Now()
	next.pod.taken++
	t.taken = append(t.taken, next)
}
