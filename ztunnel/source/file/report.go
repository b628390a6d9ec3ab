// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"strings"
	"time"
)

// maxReported bounds an error's length when a whole directory is wrong.
const maxReported = 20

// report is what a look found wrong, one line each.
type report []error

func (r report) Error() string {
	var lines []string
	for i, err := range r {
		if i == maxReported {
			lines = append(lines, fmt.Sprintf("and %d more", len(r)-i))
			break
		}
		lines = append(lines, err.Error())
	}
	return strings.Join(lines, "\n")
}

func (r report) Unwrap() []error { return r }

// maxTold bounds the memory of what was said.
const maxTold = 10000

// tell says something once.
func (s *Source) tell(what error) {
	if len(s.told) > maxTold {
		clear(s.told)
	}
	if text := what.Error(); !s.told[text] {
		s.told[text] = true
		s.options.Log.Warn(text, logDir, s.dir)
	}
}

// waitsLong is how long something may wait before it is said: its files are written
// again and again.
const waitsLong = 10 * time.Second

func (s *Source) waits(something bool, now time.Time) {
	switch {
	case !something:
		s.held, s.heldTold = time.Time{}, false
	case s.held.IsZero():
		s.held = now
	case !s.heldTold && now.Sub(s.held) > waitsLong:
		s.heldTold = true
		s.options.Log.Warn("something that would let more in waits until its file stays the same", logDir, s.dir, logAfter, s.options.Confirm)
	}
}

// report says what is wrong, once per problem, and when nothing is any more.
func (s *Source) report(v *seen) {
	if len(v.errs) > 0 {
		s.fail(v.errs, v.blind)
	} else if s.tries == 0 {
		s.recovered()
	}
}

// fail says what is wrong. old: what cannot be read may be any object, a pod too.
func (s *Source) fail(err error, old bool) {
	s.mu.Lock()
	s.stats.Old = old
	s.stats.Failures++
	known := s.stats.LastError == err.Error()
	s.stats.LastError = err.Error()
	s.mu.Unlock()
	if known {
		return
	}
	what := "workloads and policies are not understood; the last good ones stay in force"
	if s.stats.Generation == 0 {
		what = "workloads and policies are not understood; none were read before, so none are in force and pods wait"
	}
	s.options.Log.Error(what, logDir, s.dir, logError, err)
	s.options.OnError(err)
}

func (s *Source) recovered() {
	s.mu.Lock()
	was := s.stats.LastError
	s.stats.LastError, s.stats.Old = "", false
	s.mu.Unlock()
	if was != "" {
		s.options.Log.Info("workloads and policies can be read again", logDir, s.dir)
	}
}
