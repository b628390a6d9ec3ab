// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"image/color"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// twoRepetitions makes a stage of two repetitions; direct's machine was twice as fast in
// the second.
func twoRepetitions() *stage {
	s := &stage{row: rows[0], cell: cell{streams: 8, direction: forward}, samples: make(map[string]map[string][]float64),
		calibrations: []calibration{{Hop: 200e-12, Seal: 100e-12, Open: 100e-12}}}
	s.keep(direct, 0, readings{mBulk: 20})
	s.keep(direct, 1, readings{mBulk: 40})
	s.keep(ours, 0, readings{mBulk: 10, mCPU: 1.2})
	s.keep(ours, 1, readings{mBulk: 20, mCPU: 1.2})
	return s
}

var columns = []*peer{{name: direct, hops: 1}, {name: ours, hops: 3, crypto: true}}

func TestRatioIsOfTheSameRepetition(t *testing.T) {
	all := twoRepetitions().results(columns)
	i := slices.IndexFunc(all, func(r result) bool { return r.Row == mBulk && r.Peer == ours })
	if i < 0 || all[i].RatioToDirect == nil || *all[i].RatioToDirect != 0.5 {
		t.Errorf("%+v", all)
	}
}

func TestLostRepetitionLeavesAGap(t *testing.T) {
	s := twoRepetitions()
	s.keep(ours, 3, readings{mBulk: 30})
	values := s.samples[mBulk][ours]
	if len(values) != 4 || !math.IsNaN(values[2]) || count(values) != 3 || quantile(values, 0.5) != 20 {
		t.Errorf("%v", values)
	}
}

func TestLimitIsOfHopsAndCrypto(t *testing.T) {
	c := calibration{Hop: 200e-12, Seal: 100e-12, Open: 100e-12}
	eight := cell{streams: 8}
	if got := c.limit(mCPU, eight, columns[1]); round(got) != 0.6 {
		t.Errorf("two nodes: %v s/GB, want 2·200+200 ps/B", got)
	}
	local := &peer{hops: 2}
	if got := c.limit(mCPU, eight, local); round(got) != 0.2 {
		t.Errorf("one node: %v s/GB, want 200 ps/B", got)
	}
	if wide, narrow := c.limit(mBulk, eight, local), c.limit(mBulk, eight, columns[1]); round(wide/narrow) != 2 {
		t.Errorf("800 ps/B allow %v, 400 ps/B %v", narrow, wide)
	}
}

func TestReportHasEachCellAndItsLimit(t *testing.T) {
	r := &report{Settings: settings{Repetitions: 2, Seconds: 2}, Columns: []column{{Name: direct}, {Name: ours}}}
	r.Results = twoRepetitions().results(columns)
	r.Targets = judge(r)
	text := r.markdown()
	for _, want := range []string{
		"| bulk throughput, Gb/s | 8 forward |", "| ours | 10.0 (10.0 … 20.0) ×0.500 |", "| *ours, of its limit* | 50 % |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if err := r.write(t.TempDir()); err != nil {
		t.Error(err)
	}
}

// The charts of the committed run are drawn from its numbers. A reader finds ours, ztunnel
// and the best other first.
func TestChartsAreDrawnFromTheNumbers(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(committed, "latest.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r report
	if err := json.Unmarshal(text, &r); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := r.plots(dir); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"bulk-throughput", "rss-per-1k-idle-streams", "latency"} {
		for _, kind := range []string{".svg", ".png"} {
			if stat, err := os.Stat(filepath.Join(dir, name+kind)); err != nil || stat.Size() < 4<<10 {
				t.Errorf("%s%s: %v", name, kind, err)
			}
		}
	}
	cells, peers := r.cellsOf(mBulk)
	if got := r.ranked(metrics[0], cells[0], peers)[:3]; !slices.Equal(got, []string{ours, istios, relay}) {
		t.Errorf("first are %v", got)
	}
	seen := map[color.RGBA]string{}
	for _, name := range painted {
		if other := seen[colourOf(name)]; other != "" {
			t.Errorf("%s and %s have one colour", name, other)
		}
		seen[colourOf(name)] = name
	}
}

func TestColumnsAndCommandsAreToldApart(t *testing.T) {
	t.Setenv("ISTIO_ZTUNNEL", "")
	o, err := parse([]string{"-peer", "ours,other=/bin/other -x,other-same-node", "-row", "bulk,rtt"})
	if err != nil {
		t.Fatal(err)
	}
	if !o.wants(ours) || o.wants(nginx) || !o.wants("other-same-node") || len(o.external) != 1 || o.external[0] != (external{"other", "/bin/other -x"}) {
		t.Errorf("%+v", o)
	}
	for _, args := range [][]string{{"-peer", "nobody"}, {"-row", "nothing"}, {"more"}, {"-repetitions", "0"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%v is taken", args)
		}
	}
}

func TestServerHelloTellsTheCipher(t *testing.T) {
	hello := append([]byte{22, 3, 3, 0, 0, 2, 0, 0, 0, 3, 3}, make([]byte, 32)...)
	hello = append(append(append(hello, 32), make([]byte, 32)...), 0x13, 0x01)
	if suite, ok := suite(hello); !ok || suite != 0x1301 {
		t.Errorf("%#x, %v", suite, ok)
	}
	for n := range hello {
		if _, ok := suite(hello[:n]); ok {
			t.Errorf("%d bytes are taken for a whole one", n)
		}
	}
}

// All that is measured with a ztunnel given: make bench must end in 45 minutes,
// of which building the lab takes one.
func TestAFullRunTakesLessThanFortyFiveMinutes(t *testing.T) {
	t.Setenv("ISTIO_ZTUNNEL", "/bin/ztunnel")
	o, err := parse(nil)
	if err != nil {
		t.Fatal(err)
	}
	var all []*peer
	for _, name := range append(slices.Clone(peerNames), o.external[0].columns()...) {
		all = append(all, &peer{name: name, mixed: strings.Contains(name, into), brief: variants[name].brief})
	}
	if took := o.planned(all); took > 44*time.Minute {
		t.Errorf("%d columns would take %v", len(all), took)
	} else {
		t.Logf("%d columns take %v", len(all), took)
	}
}
