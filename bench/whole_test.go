// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"
	"time"
)

// wholeRun is a run with everything in it, by the command line given.
func wholeRun(t *testing.T, args ...string) *measurement {
	t.Helper()
	t.Setenv("ISTIO_ZTUNNEL", "/bin/ztunnel")
	o, err := parse(args)
	if err != nil {
		t.Fatal(err)
	}
	m := &measurement{world: &world{opts: o}, repetitions: o.repetitions, duration: o.duration}
	for _, name := range append(slices.Clone(peerNames), o.external[0].columns()...) {
		if o.wants(name) {
			m.peers = append(m.peers, &peer{name: name})
		}
	}
	for _, r := range o.chosen() {
		for _, c := range r.cells {
			m.stages = append(m.stages, &stage{row: r, cell: c})
		}
	}
	return m
}

func TestOnlyAWholeRunReplacesTheCommittedOne(t *testing.T) {
	for _, tc := range []struct {
		name string
		args []string
		lose func(*measurement)
		want string
	}{
		{"everything", nil, nil, committed},
		{"another proxy beside", []string{"-peer", "other=/bin/other"}, nil, committed},
		{"more repetitions", []string{"-repetitions", "9", "-duration", "3s"}, nil, committed},
		{"some rows", []string{"-row", "bulk,rtt"}, nil, apart},
		{"some columns", []string{"-peer", "direct,ours"}, nil, apart},
		{"fewer repetitions", []string{"-repetitions", "1"}, nil, apart},
		{"shorter ones", []string{"-duration", "100ms"}, nil, apart},
		{"the committed directory by name", []string{"-row", "rtt", "-results", "./results/"}, nil, apart},
		{"a directory of its own", []string{"-row", "rtt", "-results", "elsewhere"}, nil, "elsewhere"},
		{"interrupted in the last row", nil, func(m *measurement) { m.stages = m.stages[:len(m.stages)-1] }, apart},
		{"a column that failed", nil, func(m *measurement) { m.peers = m.peers[:len(m.peers)-1] }, apart},
	} {
		m := wholeRun(t, tc.args...)
		if tc.lose != nil {
			tc.lose(m)
		}
		if got := m.destination(); got != tc.want {
			t.Errorf("%s: written to %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestAPartialRunSaysWhatItLacks(t *testing.T) {
	m := wholeRun(t, "-peer", "direct,ours", "-row", "rtt")
	m.duration = time.Second
	missing := m.missing()
	for _, want := range []string{"row bulk", "column nginx", "column ztunnel-to-ours", "7 repetitions of 2s"} {
		if !slices.Contains(missing, want) {
			t.Errorf("%q is not in %q", want, missing)
		}
	}
	if slices.Contains(missing, "row rtt") || slices.Contains(missing, "column ours") {
		t.Errorf("it has the row rtt and the column ours: %q", missing)
	}
}
