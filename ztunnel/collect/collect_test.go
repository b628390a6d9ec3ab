// SPDX-License-Identifier: Apache-2.0

package collect

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

const mib = 1 << 20

// repeat tells the rule of alike collections, and returns the percentage by then.
func (r *rule) repeat(n int, gap time.Duration, live uint64) (percent int) {
	for range n {
		percent, _ = r.after(gap, live)
	}
	return percent
}

func TestOnlyCollectionsThatGoOnAreMadeSeldom(t *testing.T) {
	r := rule{percent: usual, more: 64 * mib}
	if got := r.repeat(many-1, 50*time.Millisecond, 10*mib); got != usual {
		t.Errorf("%d after a moment of frequent ones", got)
	}
	r.after(time.Second, 10*mib)
	if got := r.repeat(many-1, 50*time.Millisecond, 10*mib); got != usual {
		t.Errorf("%d after two moments with a pause between", got)
	}
	if got := r.repeat(1, 50*time.Millisecond, 10*mib); got != most {
		t.Errorf("%d after %d frequent ones in a row, want %d", got, many, most)
	}
	if got := r.repeat(100, time.Second, 10*mib); got != most {
		t.Errorf("%d while they come once a second because of that", got)
	}
	if got := r.repeat(1, calm+1, 10*mib); got != usual {
		t.Errorf("%d when it is calm", got)
	}
}

func TestGarbageIsBoundedInBytes(t *testing.T) {
	for live, want := range map[uint64]int{0: most, 10 * mib: most, 64 * mib: 200, 640 * mib: 110, 64 << 30: 100} {
		r := rule{percent: usual, more: 64 * mib}
		if got := r.repeat(many, time.Millisecond, live); got != want {
			t.Errorf("%d with %d bytes that live, want %d", got, live, want)
		}
	}
	r := rule{percent: usual, more: 64 * mib}
	r.repeat(many, time.Millisecond, 10*mib)
	if got := r.repeat(1, time.Second, 640*mib); got != 110 {
		t.Errorf("%d when more lives, want 110", got)
	}
}

func TestSmallDifferencesAreNotWorthAStop(t *testing.T) {
	r := rule{percent: usual, more: 64 * mib}
	r.repeat(many, time.Millisecond, 64*mib)
	if _, changed := r.after(time.Millisecond, 65*mib); changed {
		t.Error("the world was stopped for a percent")
	}
	if _, changed := r.after(time.Millisecond, 128*mib); !changed {
		t.Error("twice as much lives, and as much garbage may be")
	}
}

// percentNow reads what SetGCPercent has set. To set it twice for that could undo what is
// set meanwhile.
func percentNow() int {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

func TestAProcessThatCollectsAllTheTimeIsLetBe(t *testing.T) {
	t.Setenv("GOGC", "")
	os.Unsetenv("GOGC")
	defer debug.SetGCPercent(usual)
	stop := Seldom(64 * mib)
	time.Sleep(often + often/5) // each gap is one between two collections, and none from the start
	for deadline := time.Now().Add(20 * time.Second); percentNow() == usual; {
		if time.Now().After(deadline) {
			t.Fatal("collections go on, as often as before")
		}
		runtime.GC()
		time.Sleep(time.Millisecond) // for the cleanup, which is another goroutine's
	}
	stop()
	for deadline := time.Now().Add(20 * time.Second); percentNow() != usual; {
		if time.Now().After(deadline) {
			t.Fatal("stopped, and the percentage is not as before")
		}
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
}

func TestWhatLivesIsKnown(t *testing.T) {
	held := make([]byte, 8*mib)
	runtime.GC()
	with := live()
	runtime.KeepAlive(held)
	runtime.GC()
	if without := live(); with < 8*mib || without > with-4*mib {
		t.Errorf("%d bytes live with 8 MiB that are held, and %d without", with, without)
	}
}

func TestWhoeverSetsGOGCHasDecided(t *testing.T) {
	t.Setenv("GOGC", "150")
	defer debug.SetGCPercent(debug.SetGCPercent(150))
	defer Seldom(64 * mib)()
	for range 2 * many {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if got := percentNow(); got != 150 {
		t.Errorf("%d, want what was set", got)
	}
}
