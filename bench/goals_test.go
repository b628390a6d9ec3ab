// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"
)

// ours is 1.4 times ztunnel in each repetition, on a machine whose speed changes.
func besideZtunnel() *report {
	s := &stage{row: rows[0], cell: cell{streams: 8, direction: forward}, samples: make(map[string]map[string][]float64)}
	for i, speed := range []float64{1, 4, 2} {
		s.keep(ours, i, readings{mBulk: 14 * speed})
		s.keep(istios, i, readings{mBulk: 10 * speed})
		s.keep(oursStd, i, readings{mBulk: 9 * speed})
	}
	for i := 3; i < 5; i++ { // repetitions that ztunnel has lost, on a faster machine
		s.keep(ours, i, readings{mBulk: 14 * 8})
		s.keep(oursStd, i, readings{mBulk: 9 * 8})
	}
	r := &report{Columns: []column{{Name: ours}, {Name: oursStd}, {Name: istios}}}
	r.Results = s.results([]*peer{{name: ours}, {name: oursStd}, {name: istios}})
	r.Goals = r.goals()
	return r
}

func TestGoalsAreOfTheSameRepetitions(t *testing.T) {
	r := besideZtunnel()
	for text, want := range map[string]goal{
		"bulk throughput to ztunnel's, 8 forward":           {Limit: 1.3, Met: true},
		"ours-std, bulk throughput to ztunnel's, 8 forward": {Limit: 0.95},
	} {
		i := slices.IndexFunc(r.Goals, func(g goal) bool { return g.Goal == text })
		if i < 0 {
			t.Fatalf("no goal %q", text)
		}
		measured := map[bool]float64{true: 1.4, false: 0.9}[want.Met]
		if g := r.Goals[i]; g.Measured == nil || *g.Measured != measured || g.Limit != want.Limit || g.Met != want.Met {
			t.Errorf("%s: %+v", text, g)
		}
	}
}

func TestAGoalThatWasNotMeasuredIsNotMet(t *testing.T) {
	r := besideZtunnel()
	var b strings.Builder
	r.writeGoals(&b)
	for _, want := range []string{
		"| connections to ztunnel's, 8, 64 B | – | ≥ 1.10 | not in this run |",
		"| fortio requests to ztunnel's, 100, 1024 B, a connection each | – | ≥ 1.10 | not in this run |",
		"| RSS 60 s after a burst, to before | – | ≤ 1.30 | not in this run |",
		"| bulk throughput to ztunnel's, 8 forward | 1.40 | ≥ 1.30 | met |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for _, g := range r.Goals {
		if g.Met && g.Measured == nil {
			t.Errorf("%+v", g)
		}
	}
}

// Each goal is of a row and a cell that some column has.
func TestEachGoalCanBeMeasured(t *testing.T) {
	r := &report{}
	for _, row := range rows {
		for _, c := range row.cells {
			for _, m := range metrics {
				for _, name := range []string{ours, oursStd, oursAES} {
					one := 1.0
					if row.in(&peer{name: name, brief: variants[name].brief}, c) {
						r.Results = append(r.Results, result{Row: m.name, Peer: name, Streams: c.streams, Direction: c.direction, Size: c.size,
							Rate: c.rate, Once: c.once, CPUs: c.cpus, Median: 1, RatioToDirect: &one, RatioToZtunnel: &one})
					}
				}
			}
		}
	}
	for _, g := range r.goals() {
		if g.Measured == nil {
			t.Errorf("%s: no row has it", g.Goal)
		}
	}
}

func TestScalingIsToldForEachColumn(t *testing.T) {
	r := &report{Columns: []column{{Name: ours}}}
	for n, rate := range map[int]float64{1: 5, 2: 8} {
		r.Results = append(r.Results, result{Row: mCoresBulk, Peer: ours, Streams: 8, Direction: forward, CPUs: n, Median: rate})
	}
	var b strings.Builder
	r.writeScaling(&b)
	if want := "| ours, bulk throughput by CPUs | 1 | 2 | × 1.60 |"; !strings.Contains(b.String(), want) {
		t.Errorf("no %q in\n%s", want, b.String())
	}
}
