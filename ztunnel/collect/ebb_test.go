// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"runtime"
	"runtime/metrics"
	"testing"
	"time"
)

// tide is a process that is looked at again and again.
type tide struct {
	ebb
	used
	now time.Time
}

func newTide() *tide { return &tide{now: time.Unix(1e9, 0)} }

// pass lets looks pass, in each of which so many bytes are allocated. It returns how often
// memory was given back.
func (t *tide) pass(looks int, allocated uint64) (times int) {
	for range looks {
		t.now = t.now.Add(look)
		t.allocated += allocated
		if t.due(t.now, t.used) {
			t.gaveBack(t.now, t.used)
			times++
		}
	}
	return times
}

func TestMemoryIsGivenBackWhenALoadHasGoneAndNotBefore(t *testing.T) {
	tide := newTide()
	if got := tide.pass(60, 10*mib); got != 0 {
		t.Errorf("%d times under load", got)
	}
	if got := tide.pass(1, 0); got != 1 {
		t.Error("not when the load had gone")
	}
	if got := tide.pass(int(laters*later/look), 0); got != laters {
		t.Errorf("%d times for what a load lets go of later, want %d", got, laters)
	}
	if got := tide.pass(600, 0); got != 0 {
		t.Errorf("%d times more, and nothing was allocated since", got)
	}
}

func TestWhatIsLittleToWhatLivesIsNotWorthACollection(t *testing.T) {
	tide := newTide()
	tide.live = 800 * mib
	if got := tide.pass(33, 3*mib); got != 0 {
		t.Errorf("%d times for 99 MiB of 800", got)
	}
	if got := tide.pass(1, 3*mib); got != 1 {
		t.Error("not for an eighth")
	}
}

func TestGoroutinesThatWentLeaveTheirStacks(t *testing.T) {
	tide := newTide()
	tide.goroutines = 1100
	tide.pass(1, leastEbb)
	if got := tide.pass(100, 0); got != 0 {
		t.Fatalf("%d times for nothing", got)
	}
	tide.goroutines = 100
	if got := tide.pass(int(apart/look), 0); got != 1 {
		t.Errorf("%d times for a thousand stacks, want 1", got)
	}
}

// A process that always allocates a little: it would be collected every ten seconds.
func TestWhatIsAlwaysAllocatedIsGivenBackSeldomUntilThereIsALoad(t *testing.T) {
	const tenMinutes = int(10 * time.Minute / look)
	tide := newTide()
	tide.pass(tenMinutes, mib)
	if got := tide.pass(tenMinutes, mib); got != 5 {
		t.Errorf("%d times in ten minutes, want 5", got)
	}
	tide.pass(2, 10*mib)
	if got := tide.pass(int(apart/look), mib); got != 1 {
		t.Errorf("%d times in the ten seconds after a load, want 1", got)
	}
}

// litter leaves 64 MiB of garbage, all of which was touched.
func litter() {
	garbage := make([][]byte, 64)
	for i := range garbage {
		garbage[i] = make([]byte, mib)
		garbage[i][0] = 1
	}
	runtime.KeepAlive(garbage)
}

// kept is the bytes that the kernel has given and was not given back.
func kept() uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64() - sample[1].Value.Uint64()
}

func TestGarbageOfALoadIsTheKernelsAgain(t *testing.T) {
	litter()
	before := kept()
	done := make(chan struct{})
	defer close(done)
	go giveBack(done, time.Millisecond)
	for deadline := time.Now().Add(20 * time.Second); kept()+48*mib > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB before, %d after", before/mib, kept()/mib)
		}
	}
}

func TestWhoeverSetsGOGCGivesBackAsGoDoes(t *testing.T) {
	t.Setenv("GOGC", "150")
	before := runtime.NumGoroutine()
	GiveBack()()
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
}
