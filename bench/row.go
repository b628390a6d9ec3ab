// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
)

// cell is one line of the table: what is measured how.
type cell struct {
	streams   int
	direction string // forward: to the server; empty: both at once
	size      int    // of a message; 0: no messages
	rate      int    // of messages a second, by the clock; 0: as fast as goes
	once      bool   // a connection for each message
	cpus      int    // that both proxies are confined to; 0: none are
}

const (
	forward = "forward"
	reverse = "reverse"
)

// readings is what one repetition gave, by metric.
type readings map[string]float64

// row is a part of the benchmark that can be asked for.
type row struct {
	name    string
	all     bool          // small messages in all columns; or else direct, ours, xnet and what was given
	bare    bool          // in relay too
	asked   bool          // only if asked for by name: no part of a whole run
	apps    bool          // of the field's own programs, in columns that lead to any port
	short   bool          // half as long
	more    time.Duration // what a repetition takes in a column beyond its time, about
	cells   []cell
	repeat  int // of one cell at most; 0: as often as the options say
	measure func(ctx context.Context, m *measurement, p *peer, c cell) (readings, error)
}

var errNotHere = errors.New("not measured in this column")

// rows are in the order in which they are measured: memory first, since a
// process gives back slowly what the others made it take.
var rows = []row{
	{name: "tunnels", measure: measureTunnels, repeat: 5, short: true, more: time.Second, cells: []cell{{streams: 200}}},
	{name: "idle", bare: true, measure: measureIdle, repeat: 3, short: true, more: idleLong, cells: []cell{{streams: 1000}}},
	{name: "burst", asked: true, measure: measureBurst, repeat: 1, short: true, more: burstWait + 20*time.Second, cells: []cell{{streams: burstStreams}}},
	{name: "bulk", all: true, measure: measureBulk, cells: []cell{
		{streams: 1, direction: forward}, {streams: 1, direction: reverse}, {streams: 8, direction: forward},
		{streams: 8, direction: reverse}, {streams: 64, direction: forward}, {streams: 64, direction: reverse}}},
	{name: "rtt", all: true, measure: measureRTT, cells: []cell{{streams: 1, size: 64}, {streams: 1, size: 1024}}},
	{name: "open", all: true, measure: measureOpen, cells: []cell{{streams: 8, size: 64}}},
	{name: "cold", short: true, measure: measureCold, cells: []cell{{streams: 1, size: 1}}},
	{name: "first", short: true, measure: measureFirst, cells: []cell{{streams: 1, size: 128 << 10}}},
	{name: "behind", short: true, measure: measureBehind, cells: []cell{{streams: 1, size: 64}}},
	{name: "effort", short: true, measure: measureEffort, cells: []cell{{streams: 8, direction: forward}, {streams: 8, direction: reverse}}},
	{name: "handshakes", short: true, measure: measureHandshakes, cells: []cell{{streams: 4}}},
	{name: "requests", short: true, measure: measureRequests, cells: []cell{{streams: 64, size: 1024}}},
	{name: "schedule", short: true, measure: measureSchedule, cells: []cell{
		{streams: 64, size: 1024, rate: 1000}, {streams: 64, size: 1024, rate: 5000}, {streams: 64, size: 1024, rate: 10000}}},
	{name: "fortio", asked: true, apps: true, more: 500 * time.Millisecond, measure: measureFortio, cells: []cell{
		{streams: 1, size: fortioSize}, {streams: 10, size: fortioSize}, {streams: 100, size: fortioSize}, {streams: 100, size: fortioSize, once: true}}},
	{name: "iperf3", asked: true, apps: true, more: 500 * time.Millisecond, measure: measureIperf, cells: []cell{
		{streams: 1, direction: forward}, {streams: 8, direction: forward}}},
	{name: "cores", asked: true, bare: true, short: true, more: noticed, measure: measureCores, cells: confinements()},
	{name: "overload", short: true, more: 500 * time.Millisecond, measure: measureOverload, cells: []cell{{streams: 512, size: 64}}},
}

func rowNames() (names []string) {
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

// in reports whether a cell of the row is measured in a column. All of it would
// take more than the 45 minutes that a run may.
func (r row) in(p *peer, c cell) bool {
	switch {
	case r.apps && (p.name == xnet || p.mixed), c.cpus > runtime.NumCPU():
		return false
	case p.mixed:
		return r.name == "bulk" && c.streams != 8
	case p.brief:
		return r.name == "bulk" && c.streams == 8
	case r.all && c.size <= 64, p.name == direct, p.name == ours, p.name == xnet:
		return true
	case p.name == relay:
		return r.bare
	}
	return !known(p.name, peerNames) && !strings.HasSuffix(p.name, sameNode)
}

// measured reports whether any of the columns has the cell.
func (r row) measured(c cell, peers []*peer) bool {
	return slices.ContainsFunc(peers, func(p *peer) bool { return r.in(p, c) })
}

// planned is about how long a run takes, without building the lab.
func (o options) planned(peers []*peer) (all time.Duration) {
	const (
		between   = 150 * time.Millisecond // connections that open, drain and close
		calibrate = 900 * time.Millisecond
	)
	for _, r := range o.chosen() {
		times, length := o.repetitions, o.duration
		if r.repeat > 0 {
			times = min(times, r.repeat)
		}
		if r.short {
			length /= 2
		}
		for _, c := range r.cells {
			if !r.measured(c, peers) {
				continue
			}
			all += time.Duration((times+1)/2) * calibrate
			for _, p := range peers {
				if r.in(p, c) {
					all += time.Duration(times)*(length+between+r.more) + 2*between // to warm up
				}
			}
		}
	}
	return all
}

// chosen are the rows that are asked for, or those of a whole run.
func (o options) chosen() []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool {
		if len(o.rows) == 0 {
			return r.asked
		}
		return !known(r.name, o.rows)
	})
}

// text names the cell in the table.
func (c cell) text() string {
	s := fmt.Sprintf("%d", c.streams)
	if c.direction != "" {
		s += " " + c.direction
	}
	if c.size > 0 {
		s += fmt.Sprintf(", %d B", c.size)
	}
	if c.rate > 0 {
		s += fmt.Sprintf(", %d/s", c.rate)
	}
	if c.once {
		s += ", a connection each"
	}
	if c.cpus > 0 {
		s += fmt.Sprintf(", on %d of the CPUs", c.cpus)
	}
	return s
}

func perSecond(a load.Answer) float64 { return float64(a.Count) / a.Elapsed.Seconds() }

func micro(ns float64) float64 { return ns / float64(time.Microsecond) }
