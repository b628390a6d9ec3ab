// SPDX-License-Identifier: Apache-2.0

package quota

import (
	"sync"
	"testing"
)

func take(p *Part) (n int64) {
	for p.Take(1) {
		n++
	}
	return n
}

func TestAPodGetsNoMoreThanGenerousTimesWhatIsLeft(t *testing.T) {
	r := New(1000, 0)
	for _, want := range []int64{800, 160, 32, 6, 1, 0} {
		if got := take(r.Part()); got != want {
			t.Errorf("the next pod gets %d, want %d", got, want)
		}
	}
	if r.Used() > r.Size() {
		t.Errorf("%d of %d are used", r.Used(), r.Size())
	}
}

func TestAPodGetsALittleWhileAnythingIsLeft(t *testing.T) {
	r := New(100, 16)
	for _, want := range []int64{80, 16, 4, 0} {
		if got := take(r.Part()); got != want {
			t.Errorf("the next pod gets %d, want %d", got, want)
		}
	}
}

// What comes unasked may be far more than there is. Then its own pod gets no more, and
// the next as much as if the first had kept to its share.
func TestWhatAPodHoldsBeyondItsShareIsItsOwn(t *testing.T) {
	r := New(1000, 0)
	greedy, late := r.Part(), r.Part()
	greedy.Add(3000)
	if !greedy.Over(0) || greedy.Over(3000) {
		t.Errorf("of %d it may hold %d, with as much again %d", greedy.Held(), greedy.Share(0), greedy.Share(3000))
	}
	if got := take(late); got != 160 || late.Over(0) {
		t.Errorf("the next pod gets %d, want 160", got)
	}
	greedy.Add(-2200) // the excess goes first
	if greedy.Take(1) || late.Over(0) || r.Used() != 960 {
		t.Errorf("%d are used, and the first pod may hold %d", r.Used(), greedy.Share(0))
	}
	greedy.Add(-800)
	if got := take(late) + 160; got != 800 {
		t.Errorf("by itself the next pod gets %d, want 800", got)
	}
}

// Two pods that exceed their shares leave a third what they would have left within them.
func TestExcessOfSeveralPodsLeavesRoomForMore(t *testing.T) {
	r := New(1000, 0)
	for range 3 {
		r.Part().Add(5000)
	}
	if got := take(r.Part()); got != 6 {
		t.Errorf("the next pod gets %d, want four fifths of the eight that are left", got)
	}
}

func TestASmallerResourceTakesNothingAway(t *testing.T) {
	r := New(1000, 16)
	p, late := r.Part(), r.Part()
	take(p)
	r.Resize(500)
	if p.Held() != 800 || p.Take(1) || late.Take(1) {
		t.Errorf("%d are held, %d in all of %d", p.Held(), r.Used(), r.Size())
	}
	r.Resize(1000)
	if !late.Take(1) {
		t.Error("what grew again has nothing for a pod")
	}
}

func TestWhatIsTakenAtOnceStaysWithinTheSize(t *testing.T) {
	r := New(1000, 16)
	var wg sync.WaitGroup
	for range 8 {
		p := r.Part()
		for range 4 {
			wg.Go(func() { take(p) })
		}
	}
	wg.Wait()
	if used := r.Used(); used > 1000 || used < 800 {
		t.Errorf("%d of 1000 are used", used)
	}
}
