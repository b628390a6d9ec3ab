// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	look     = 2 * time.Second  // between two looks
	apart    = 10 * time.Second // between two times that memory is given back, at least
	longest  = 2 * time.Minute  // the same, while there is no load; Go collects as often
	later    = 20 * time.Second // after which memory is given back once more when a load has gone
	laters   = 2                // times: connections rest, and tunnels that nobody uses end, only by then
	quiet    = 4 << 20          // bytes that are allocated from one look to the next when it is calm
	leastEbb = 2 << 20          // bytes that are worth two collections
	ebbShare = 8                // and no less than one in so many bytes that live
	ofStack  = 4 << 10          // bytes that a goroutine leaves, about
)

// GiveBack returns memory to the kernel when a load has gone, until stop. Go itself
// collects the garbage of a load only as more is allocated or after two minutes, and then
// returns pages slowly. It does nothing if GOGC is in the environment, like Seldom.
func GiveBack() (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	done := make(chan struct{})
	go giveBack(done, look)
	return sync.OnceFunc(func() { close(done) })
}

func giveBack(done <-chan struct{}, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var e ebb
	for {
		select {
		case <-done:
			return
		case now := <-ticker.C:
			if e.due(now, use()) {
				release()
				e.gaveBack(now, use())
			}
		}
	}
}

// release collects twice: what a sync.Pool holds survives one collection.
func release() {
	runtime.GC()
	debug.FreeOSMemory()
}

// used is what a process has used so far and uses now.
type used struct {
	allocated  uint64 // bytes of heap, all that ever were
	live       uint64 // bytes that the last collection left
	goroutines uint64
}

func use() used {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/gc/heap/live:bytes"}, {Name: "/sched/goroutines:goroutines"}}
	metrics.Read(sample)
	n := func(i int) uint64 { return sample[i].Value.Uint64() }
	return used{allocated: n(0), live: n(1), goroutines: n(2)}
}

// ebb says when a load has gone and left memory behind. The zero ebb takes what was
// allocated before its first look for a load.
type ebb struct {
	seen   uint64        // bytes allocated at the last look
	from   uint64        // bytes allocated when memory was given back
	most   uint64        // goroutines since then
	loaded bool          // there was a load since then
	laters int           // times that are left to give back what the last load leaves later
	at     time.Time     // when that was
	wait   time.Duration // from then to the next time
}

// due is told of each look. It reports that memory should be given back: little is
// allocated now, and what may have become garbage since the last time is worth it. Nobody
// counts what a load let go of later, so that is looked for a few times.
func (e *ebb) due(now time.Time, u used) bool {
	grew := u.allocated - e.seen
	e.seen, e.most = u.allocated, max(e.most, u.goroutines)
	stacks := (e.most - u.goroutines) * ofStack
	if grew >= quiet || stacks >= leastEbb {
		e.loaded, e.wait = true, apart
	}
	left := u.allocated - e.from + stacks
	worth := left >= max(leastEbb, u.live/ebbShare) || e.laters > 0 && now.Sub(e.at) >= later
	return grew < quiet && now.Sub(e.at) >= e.wait && worth
}

// gaveBack is told of the use after that. What is always allocated a little at a time comes
// back each time, and is as soon there again: without a load the next time is later.
func (e *ebb) gaveBack(now time.Time, after used) {
	wait, left := apart, laters
	if !e.loaded {
		wait, left = min(2*max(e.wait, apart), longest), max(e.laters-1, 0)
	}
	if left > 0 {
		wait = min(wait, later)
	}
	*e = ebb{seen: after.allocated, from: after.allocated, most: after.goroutines, laters: left, at: now, wait: wait}
}
