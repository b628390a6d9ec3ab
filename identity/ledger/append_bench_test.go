// SPDX-License-Identifier: Apache-2.0

package ledger

import (
	"context"
	"slices"
	"testing"
	"time"
)

// syncedLines is how many lines a sync of BenchmarkAppend has to bring to disk: those of half a
// second, where 200 certificates a second are signed.
const syncedLines = 100

// BenchmarkAppend is how long a decision waits for its line to be in its file, and how long the
// sync takes that brings some lines and the head to disk, for which no decision waits.
func BenchmarkAppend(b *testing.B) {
	r := newRig(b)
	l, err := Open(r.options("ca-1"))
	if err != nil {
		b.Fatal(err)
	}
	ctx, stop := context.WithCancel(b.Context())
	written := make(chan struct{})
	go func() { l.write(ctx); close(written) }()
	l.certify()
	var appends, syncs []time.Duration
	for i := 0; b.Loop(); i++ {
		from := time.Now()
		l.Issued(decision(i))
		appends = append(appends, time.Since(from))
		if i%syncedLines != syncedLines-1 {
			continue
		}
		from = time.Now()
		if err := l.settle(StateRunning); err != nil {
			b.Fatal(err)
		}
		syncs = append(syncs, time.Since(from))
	}
	stop()
	<-written
	l.head.close()
	if s := l.Stats(); s.Lost > 0 {
		b.Errorf("%d lines are lost", s.Lost)
	}
	percentiles(b, "append", appends)
	percentiles(b, "sync", syncs)
}

func percentiles(b *testing.B, what string, took []time.Duration) {
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	for _, p := range []struct {
		unit string
		of   int
	}{{"-p50-µs", 50}, {"-p99-µs", 99}} {
		b.ReportMetric(float64(took[len(took)*p.of/100].Microseconds()), what+p.unit)
	}
}
