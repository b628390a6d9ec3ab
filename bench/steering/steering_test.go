// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"testing"

	"github.com/culvert-mesh/culvert/test/env"
)

// TestMain is also a worker of BenchmarkConnect.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == workerCommand {
		os.Exit(workerMain(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// BenchmarkConnect has each row open a few hundred connections in each
// iteration. The command gives the numbers to go by.
func BenchmarkConnect(b *testing.B) {
	env.Need(b, env.Netns, env.BPF, env.Cgroup2)
	bench, err := newBench(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := bench.close(); err != nil {
			b.Error(err)
		}
	})
	for b.Loop() {
		if err := bench.repeat(b.Context(), slice); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0, "ns/op") // it would be of all rows together
	for _, r := range summarize(bench.measured) {
		if r.Row == connect50 {
			b.ReportMetric(r.Median, r.Peer+"-"+r.Family+"-µs")
		}
	}
	for _, note := range bench.notes {
		b.Log(note)
	}
}

// BenchmarkEnroll starts a pod of each kind in each iteration.
func BenchmarkEnroll(b *testing.B) {
	env.Need(b, env.Netns, env.BPF, env.Cgroup2)
	e, err := newEnrolment(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := e.lab.Close(); err != nil {
			b.Error(err)
		}
	})
	for b.Loop() {
		if err := e.repeat(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	results, err := e.results()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(0, "ns/op") // it would be of all kinds together
	b.ReportMetric(results[0].Median, "enroll-p50-ms")
	b.ReportMetric(*results[0].P95, "enroll-p95-ms")
}

func TestQuantilesAreValuesThatWereMeasured(t *testing.T) {
	for _, tc := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3, 1, 2}, 0.50, 2},
		{[]float64{4, 1, 3, 2}, 0.50, 2},
		{[]float64{4, 1, 3, 2}, 0.75, 3},
		{[]float64{4, 1, 3, 2}, 0.99, 4},
		{[]float64{4, 1, 3, 2}, 0, 1},
		{[]float64{7}, 0.25, 7},
	} {
		if got := quantile(tc.values, tc.q); got != tc.want {
			t.Errorf("quantile %v of %v is %v, want %v", tc.q, tc.values, got, tc.want)
		}
	}
}

// rows makes measurements of connects that take so many nanoseconds in each
// repetition.
func rows(times map[string][]int64) (all []*measurement) {
	for _, row := range []string{plain, unenrolled, steered, nft} {
		if times[row] == nil {
			continue
		}
		m := &measurement{row: row, family: "tcp4"}
		for _, ns := range times[row] {
			m.samples = append(m.samples, []sample{{Connect: ns, Cycle: 2 * ns}})
		}
		all = append(all, m)
	}
	return all
}

func TestRowsAreComparedRepetitionByRepetition(t *testing.T) {
	// The machine was four times slower in the second repetition.
	results := summarize(rows(map[string][]int64{plain: {10_000, 40_000, 10_000}, steered: {12_000, 48_000, 12_000}}))
	r := results[1]
	if r.Row != connect50 || r.Peer != steered || r.Median != 12 || r.AddedToDirect.Median != 2 || *r.RatioToDirect != 1.2 {
		t.Errorf("%+v, added %+v, ratio %v", r, *r.AddedToDirect, *r.RatioToDirect)
	}
}

func TestTargetsAreMetOrMissedAndNeverInvented(t *testing.T) {
	verdicts := func(times map[string][]int64) map[string]bool {
		met := make(map[string]bool)
		for _, target := range judge(summarize(rows(times))) {
			met[target.Target] = target.Met
		}
		return met
	}
	good := verdicts(map[string][]int64{plain: {10_000}, unenrolled: {10_500}, steered: {14_000}, nft: {20_000}})
	bad := verdicts(map[string][]int64{plain: {10_000}, unenrolled: {11_000}, steered: {15_500}, nft: {15_500}})
	if len(good) != 3 || len(bad) != 3 {
		t.Errorf("%d and %d targets, want 3: no pods were enrolled", len(good), len(bad))
	}
	for name := range good {
		if !good[name] || bad[name] {
			t.Errorf("%s: met %v and %v, want true and false", name, good[name], bad[name])
		}
	}
	if withoutNft := verdicts(map[string][]int64{plain: {10_000}, unenrolled: {10_500}, steered: {14_000}}); len(withoutNft) != 2 {
		t.Errorf("without nft: %v", withoutNft)
	}
}

func TestOnlyAWholeRunReplacesTheCommittedOne(t *testing.T) {
	full := whole
	full.out = committed
	some := func(change func(*options)) options {
		o := full
		change(&o)
		return o
	}
	for _, tc := range []struct {
		opts  options
		notes []string
		want  string
	}{
		{full, nil, committed},
		{some(func(o *options) { o.pods = 0 }), nil, apart},
		{some(func(o *options) { o.labs = 1 }), nil, apart},
		{some(func(o *options) { o.repetitions = 1 }), nil, apart},
		{some(func(o *options) { o.connects = 100; o.out = "./results/steering.json" }), nil, apart},
		{full, []string{"no row nft"}, apart},
		{some(func(o *options) { o.pods = 0; o.out = "my.json" }), nil, "my.json"},
	} {
		if got := tc.opts.destination(tc.notes); got != tc.want {
			t.Errorf("%+v, notes %q: written to %q, want %q", tc.opts, tc.notes, got, tc.want)
		}
	}
}
