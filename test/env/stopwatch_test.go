// SPDX-License-Identifier: Apache-2.0

package env

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// A busy machine takes little from a time that was spent waiting for a timer.
func TestAStopwatchCountsWaitingForATimer(t *testing.T) {
	for deadline := time.Now().Add(30 * time.Second); ; {
		s := NewStopwatch()
		<-time.After(100 * time.Millisecond)
		took, all := s.Elapsed(), time.Since(s.began)
		if took > all {
			t.Fatalf("%v of %v", took, all)
		}
		if took > 50*time.Millisecond {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never: most of the time is counted; %v of %v", took, all)
		}
	}
}

// The waits of many threads add up to more than the time: that is no reason to say none.
func TestAStopwatchAlwaysRuns(t *testing.T) {
	s := NewStopwatch()
	s.began, s.waited = s.began.Add(-8*time.Second), s.waited-time.Hour
	if took := s.Elapsed(); took < time.Second {
		t.Errorf("%v of 8 s", took)
	}
}

// Twice as many threads as processors wait half of the time: here for each other.
func TestAStopwatchLeavesOutWaitingForAProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4 * runtime.NumCPU()))
	s := NewStopwatch()
	var busy sync.WaitGroup
	for range 4 * runtime.NumCPU() {
		busy.Go(func() {
			for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
			}
		})
	}
	busy.Wait()
	if took, all := s.Elapsed(), time.Since(s.began); s.queued() > 0 && took > all/2 {
		t.Errorf("%v of %v", took, all)
	}
}

func TestTheBestOfThreeIsTakenUnlessOneIsGoodEnough(t *testing.T) {
	for _, row := range []struct {
		found []time.Duration
		want  time.Duration
		times int
	}{
		{[]time.Duration{1, 0}, 1, 1},
		{[]time.Duration{5, 2, 0}, 2, 2},
		{[]time.Duration{5, 4, 6, 0}, 4, 3},
	} {
		times := 0
		got := Best(2, func() time.Duration { times++; return row.found[times-1] })
		if got != row.want || times != row.times {
			t.Errorf("of %v: %d, measured %d times; want %d of %d", row.found, got, times, row.want, row.times)
		}
	}
}
