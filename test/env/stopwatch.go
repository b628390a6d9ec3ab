// SPDX-License-Identifier: Apache-2.0

package env

import (
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Stopwatch measures how long something takes, less what the machine adds that is busy
// with something else. It is for bounds that tell a step from a timeout.
type Stopwatch struct {
	pids   []int
	began  time.Time
	waited time.Duration
}

// NewStopwatch begins to measure what this process and the given ones do together.
func NewStopwatch(pids ...int) Stopwatch {
	s := Stopwatch{pids: append([]int{os.Getpid()}, pids...)}
	s.waited, s.began = s.queued(), time.Now()
	return s
}

// Elapsed returns the time since the stopwatch began, less that in which threads of its
// processes could have run and got no processor. Two that waited at once count twice, so
// that on a busy machine it would be nothing, whatever took the time: an eighth of the time
// always counts. It is exact on an idle machine.
func (s Stopwatch) Elapsed() time.Duration {
	took := time.Since(s.began)
	return max(took/8, took-max(0, s.queued()-s.waited))
}

// Best returns the least that measure finds, of up to three times. It measures no more once
// that is no more than enough. What the code costs shows each time; what a machine costs that
// stands still for a second, seldom twice.
func Best(enough time.Duration, measure func() time.Duration) time.Duration {
	best := measure()
	for range 2 {
		if best <= enough {
			break
		}
		best = min(best, measure())
	}
	return best
}

// queued is how long all threads of the processes have waited for a processor: the
// second number of schedstat, in nanoseconds. It is zero if the kernel does not count.
func (s Stopwatch) queued() (sum time.Duration) {
	for _, pid := range s.pids {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid)) // the pattern is well-formed
		for _, path := range threads {
			var ran, waited time.Duration
			text, err := os.ReadFile(path)
			if err != nil {
				continue // the thread has ended
			}
			if _, err := fmt.Sscan(string(text), &ran, &waited); err == nil {
				sum += waited
			}
		}
	}
	return sum
}
