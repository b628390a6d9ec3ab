// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// One pod has filled its netns, say: looking at it does not end.
func TestARoundWaitsForNoPodLongerThanItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		slow, quick := &pod{}, &pod{}
		free := make(chan struct{})
		calls := map[*pod]*atomic.Int32{slow: {}, quick: {}}
		count := func(pod *pod) {
			calls[pod].Add(1)
			if pod == slow {
				<-free
			}
		}
		start := time.Now()
		for range 3 {
			r.each([]*pod{slow}, count)
			r.each([]*pod{quick}, count)
		}
		if took := time.Since(start); took != patience || calls[slow].Load() != 1 || calls[quick].Load() != 3 {
			t.Errorf("%d calls for the slow pod and %d for the quick one took %v", calls[slow].Load(), calls[quick].Load(), took)
		}
		close(free)
		r.wait()
		r.each([]*pod{slow}, count)
		r.wait()
		if calls[slow].Load() != 2 {
			t.Error("the slow pod is left out for ever")
		}
	})
}

// Eight pods take ten seconds each, or just less than a round's patience, which they
// may know: a hundred others are looked at all the same.
func TestManySlowPodsStarveNoOther(t *testing.T) {
	for _, takes := range []time.Duration{10 * time.Second, patience - time.Millisecond} {
		t.Run(takes.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var r rounds
				all := make([]*pod, 108) // the first eight are slow
				for i := range all {
					all[i] = &pod{}
				}
				slow := all[:8]
				var good, bad, twice atomic.Int32
				busy := map[*pod]*atomic.Bool{}
				for _, pod := range all {
					busy[pod] = &atomic.Bool{}
				}
				look := func(pod *pod) {
					if busy[pod].Swap(true) {
						twice.Add(1)
					}
					defer busy[pod].Store(false)
					if !slices.Contains(slow, pod) {
						time.Sleep(time.Millisecond)
						good.Add(1)
						return
					}
					bad.Add(1)
					time.Sleep(takes)
				}
				for round, atMost := range []time.Duration{ // and patience at the end of the first
					8/atOnce*turn + 25*time.Millisecond + patience, 25 * time.Millisecond, 25 * time.Millisecond,
				} {
					start := time.Now()
					r.each(all, look)
					if took := time.Since(start); took > atMost || good.Load() != int32(100*(round+1)) {
						t.Errorf("round %d took %v and ended with %d looks at good pods", round, took, good.Load())
					}
					r.wait()
				}
				if bad.Load() != 24 || twice.Load() != 0 {
					t.Errorf("%d looks at slow pods, %d of them beside another one", bad.Load(), twice.Load())
				}
			})
		})
	}
}

// A node may be short of processors for a moment.
func TestAPodThatWasSlowOnceHasAPlaceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r rounds
		pods := []*pod{{}}
		for i, look := range []struct{ takes, waited time.Duration }{
			{2 * turn, 2 * turn}, {time.Millisecond, 0}, {time.Millisecond, time.Millisecond},
		} {
			start := time.Now()
			r.each(pods, func(*pod) { time.Sleep(look.takes) })
			if waited := time.Since(start); waited != look.waited {
				t.Errorf("round %d waited %v, want %v", i, waited, look.waited)
			}
			r.wait()
		}
	})
}

func TestTheKernelsWordOnAPodAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pod{}
		if p.isConfirmed() {
			t.Error("confirmed before the kernel was asked")
		}
		p.setConfirmed(true)
		time.Sleep(confirmedFor - 1)
		if !p.isConfirmed() {
			t.Error("not confirmed a moment ago")
		}
		time.Sleep(time.Nanosecond)
		if p.isConfirmed() {
			t.Error("confirmed, though the kernel was not asked for long")
		}
	})
}

// Somebody else looks at the pod, or changes it, when the kernel is asked about it.
func TestAPodThatIsBusyForAMomentStaysConfirmed(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.start()
	w.add(w.pod(uid, "10.1.0.1", true), enroll.Enrolled)
	w.process(uid)
	pod, _ := w.pods.byID("c-" + uid)
	w.eventually("it is confirmed", pod.isConfirmed)
	pod.mu.Lock()
	pod.slow.Store(false)
	err := w.pods.repair(t.Context()) // which waits no longer than its patience
	confirmed := pod.isConfirmed()
	pod.mu.Unlock()
	if err != nil || !confirmed {
		t.Errorf("repair: %v; confirmed: %v", err, confirmed)
	}
}

// The look at one pod takes as long as the test: others join, are confirmed and
// repaired.
func TestAPodThatTakesLongToLookAtHoldsUpNoOther(t *testing.T) {
	slow, quick, late := newUID(), newUID(), newUID()
	w := newWorld(t)
	w.start()
	for uid, addr := range map[string]string{slow: "10.1.0.1", quick: "10.1.0.2"} {
		w.add(w.pod(uid, addr, true), enroll.Enrolled)
		w.process(uid)
	}
	verified := func(n int) func() bool { return func() bool { return w.pods.Enrollment().Verified == n } }
	w.eventually("both are verified", verified(2))

	pod, _ := w.pods.byID("c-" + slow)
	release := w.pods.routes.changing.Lock(pod.sandbox().Cookie)
	defer release()
	pod.member.addresses.looking.Lock()
	defer pod.member.addresses.looking.Unlock()
	w.eventually("one is verified", func() bool {
		pods := w.pods.all()
		n := 0
		for _, pod := range pods {
			if pod.isConfirmed() {
				n++
			}
		}
		return n == 1
	})
	w.setSysctl(quick, reflect4, "0")
	w.eventually("the other is repaired", func() bool { return w.routed(quick) })
	w.wantNeighbour(quick, true)
	w.add(w.pod(late, "10.1.0.3", true), enroll.Enrolled)
	w.want(late, carried)
}
