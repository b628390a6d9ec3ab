// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/quota"
)

// yielding is the pods that can give places of a resource back: idle tunnels make
// room before anybody is refused, those of the pod that holds most before others'.
type yielding struct {
	mu   sync.Mutex
	pods map[*Part]*yielder
}

type yielder struct {
	part *Part
	idle func() bool
	next atomic.Pointer[time.Time] // when to ask it again; nil: now
}

// askAgain is how long a pod that has nothing idle is not asked again: to look
// takes time in proportion to its tunnels.
const askAgain = 100 * time.Millisecond

// Yield asks a pod for places that it holds and does not need, until stop:
// idle lets go of one, soon, and reports whether it had one. It is called by
// whoever takes a place, of any pod, while few are left.
func (p *Part) Yield(idle func() bool) (stop func()) {
	y := &p.of.yielding
	y.mu.Lock()
	defer y.mu.Unlock()
	if y.pods == nil {
		y.pods = make(map[*Part]*yielder)
	}
	y.pods[p] = &yielder{part: p, idle: idle}
	return func() {
		y.mu.Lock()
		defer y.mu.Unlock()
		delete(y.pods, p)
	}
}

// press has something idle let go if the pod, with one more, has taken more than half of
// what it may hold, or if an eighth of all is left.
func (p *Part) press() {
	held, size := p.quota.Held()+1, p.of.Size()
	left := size - p.of.Used() - 1
	if held > leastPart && 2*held > quota.Generous*left {
		p.of.ask(func(q *Part) bool { return q == p })
	}
	if 8*left < size {
		p.of.ask(func(q *Part) bool { return q != p })
	}
}

// ask asks pods for one place, until one of them yields. It is called without locks.
func (r *resource) ask(which func(*Part) bool) {
	for _, y := range r.yielding.most(which) {
		now := time.Now()
		if next := y.next.Load(); next != nil && now.Before(*next) { // whatever the clock is set to meanwhile
			continue
		}
		if y.idle() {
			return
		}
		later := now.Add(askAgain)
		y.next.Store(&later)
	}
}

// most is the pods in the order in which they are asked.
func (y *yielding) most(which func(*Part) bool) (list []*yielder) {
	y.mu.Lock()
	defer y.mu.Unlock()
	for p, pod := range y.pods {
		if which(p) {
			list = append(list, pod)
		}
	}
	slices.SortFunc(list, func(a, b *yielder) int { return cmp.Compare(b.part.quota.Held(), a.part.quota.Held()) })
	return list
}
