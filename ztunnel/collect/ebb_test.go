// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"runtime"
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
// memory was given back, by each of which so many bytes came back.
func (t *tide) pass(looks int, allocated, gain uint64) (times int) {
	for range looks {
		t.now = t.now.Add(look)
		t.allocated += allocated
		if t.due(t.now, t.used) {
			before, after := t.used, t.used
			before.kept += gain
			t.gaveBack(t.now, before, after)
			times++
		}
	}
	return times
}

func TestMemoryIsGivenBackWhenALoadHasGoneAndNotBefore(t *testing.T) {
	tide := newTide()
	if got := tide.pass(60, 10*mib, 0); got != 0 {
		t.Errorf("%d times under load", got)
	}
	if got := tide.pass(1, 0, 50*mib); got != 1 {
		t.Error("not when the load had gone")
	}
	if got := tide.pass(600, 0, 50*mib); got != 0 {
		t.Errorf("%d times more, and nothing was allocated since", got)
	}
}

func TestWhatIsLittleToWhatLivesIsNotWorthACollection(t *testing.T) {
	tide := newTide()
	tide.live = 800 * mib
	if got := tide.pass(33, 3*mib, 50*mib); got != 0 {
		t.Errorf("%d times for 99 MiB of 800", got)
	}
	if got := tide.pass(1, 3*mib, 50*mib); got != 1 {
		t.Error("not for an eighth")
	}
}

func TestGoroutinesThatWentLeaveTheirStacks(t *testing.T) {
	tide := newTide()
	tide.goroutines = 1100
	tide.pass(1, leastEbb, 50*mib)
	if got := tide.pass(100, 0, 0); got != 0 {
		t.Fatalf("%d times for nothing", got)
	}
	tide.goroutines = 100
	if got := tide.pass(100, 0, 4*mib); got != 1 {
		t.Errorf("%d times for a thousand stacks, want 1", got)
	}
}

// A process that always allocates a little: it would be collected every ten seconds.
func TestWhatBringsLittleIsTriedSeldomUntilThereIsALoadAgain(t *testing.T) {
	const tenMinutes = int(10 * time.Minute / look)
	tide := newTide()
	tide.pass(tenMinutes, mib, 0)
	if got := tide.pass(tenMinutes, mib, 0); got != 5 {
		t.Errorf("%d times in ten minutes, want 5", got)
	}
	tide.pass(2, 10*mib, 0)
	if got := tide.pass(int(apart/look), mib, 50*mib); got != 1 {
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

func TestGarbageOfALoadIsTheKernelsAgain(t *testing.T) {
	litter()
	before := use()
	done := make(chan struct{})
	defer close(done)
	go giveBack(done, time.Millisecond)
	for deadline := time.Now().Add(20 * time.Second); use().kept+48*mib > before.kept; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d MiB before, %d after", before.kept/mib, use().kept/mib)
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
