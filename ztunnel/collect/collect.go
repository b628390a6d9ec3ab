// SPDX-License-Identifier: Apache-2.0

// Package collect has Go's garbage collector run less often while it runs all the time.
//
// A collection costs by what lives, and how often one begins by what is allocated. A
// ztunnel holds little, and under many connections or handshakes allocates much: with
// GOGC=100 it collects ten times a second and more. While that goes on, garbage may take
// up to four times what lives, within a bound in bytes.
package collect

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

const (
	usual = 100 // percent: garbage may be as much as what lives
	most  = 400 // percent, while collections are frequent

	often = 500 * time.Millisecond // between two collections: they are frequent
	calm  = 2 * time.Second        // between two: they are not any more
	many  = 8                      // frequent ones in a row are no moment's
)

// Seldom begins to watch the collector, until stop: garbage may take so many bytes more
// than usual. It does nothing if GOGC is in the environment: then somebody else has
// decided. GOMEMLIMIT holds as before.
func Seldom(more uint64) (stop func()) {
	if os.Getenv("GOGC") != "" {
		return func() {}
	}
	w := &watch{last: time.Now(), rule: rule{percent: usual, more: more}}
	w.arm()
	return func() { w.stopped.Store(true) }
}

// watch learns of each collection by an object that does not survive it.
type watch struct {
	stopped atomic.Bool
	last    time.Time // cleanups run one after the other
	rule    rule
}

type sentinel struct{ _ *byte } // with a pointer: the tiny allocator would have it live with others

func (w *watch) arm() { runtime.AddCleanup(new(sentinel), (*watch).collected, w) }

func (w *watch) collected() {
	if w.stopped.Load() {
		debug.SetGCPercent(usual)
		return
	}
	now := time.Now()
	if percent, changed := w.rule.after(now.Sub(w.last), live()); changed {
		debug.SetGCPercent(percent)
	}
	w.last = now
	w.arm()
}

// live is how many bytes the last collection left.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// rule is the percentage of garbage by how often there are collections.
type rule struct {
	percent int
	more    uint64 // bytes of garbage beyond usual
	row     int    // frequent collections, one after the other
}

// after is told of a collection that came so long after the one before it and left so
// many bytes. It returns the percentage, and whether that differs much from before.
func (r *rule) after(gap time.Duration, live uint64) (percent int, changed bool) {
	want := r.percent
	switch {
	case gap < often:
		if r.row = min(r.row+1, many); r.row == many {
			want = r.frequent(live)
		}
	case gap > calm:
		r.row, want = 0, usual
	default:
		if r.percent == usual {
			r.row = 0
		}
		want = min(want, r.frequent(live))
	}
	if want == r.percent || want != usual && r.percent != usual && 10*max(want-r.percent, r.percent-want) < r.percent {
		return r.percent, false
	}
	r.percent = want
	return want, true
}

// frequent is the percentage that bounds garbage by both limits.
func (r *rule) frequent(live uint64) int {
	return min(most, usual+int(r.more*100/max(live, 1)))
}
