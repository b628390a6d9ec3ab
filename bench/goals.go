// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strings"
)

// goal is what is asked of ours beside Istio's ztunnel, or by itself.
type goal struct {
	Goal     string   `json:"goal"`
	Measured *float64 `json:"measured"` // nil: its row or a column of it is not in this run
	Limit    float64  `json:"limit"`
	AtMost   bool     `json:"at_most"` // or else at least
	Met      bool     `json:"met"`
}

// goals lists all of them, whatever was measured. What is asked in both directions has a
// line for each.
func (r *report) goals() (list []goal) {
	add := func(text string, value, limit float64, atMost bool) {
		g := goal{Goal: text, Limit: limit, AtMost: atMost}
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			value = round(value)
			g.Measured, g.Met = &value, value == limit || (value < limit) == atMost
		}
		list = append(list, g)
	}
	beside := func(metric, column string, c cell, limit float64, atMost bool) {
		name := metric
		if column != ours {
			name = column + ", " + metric
		}
		add(fmt.Sprintf("%s to ztunnel's, %s", name, c.text()), r.besideZtunnel(metric, column, c), limit, atMost)
	}
	for _, d := range []string{forward, reverse} {
		beside(mCPU, oursAES, cell{streams: 8, direction: d}, 0.65, true)
		beside(mBulk, ours, cell{streams: 8, direction: d}, 1.3, false)
		beside(mBulk, ours, cell{streams: 64, direction: d}, 1.3, false)
		beside(mBulk, oursStd, cell{streams: 8, direction: d}, 0.95, false)
	}
	opened, hundred := cell{streams: 8, size: 64}, cell{streams: 100, size: fortioSize}
	beside(mOpen, ours, opened, 1.1, false)
	add(mOpenCPU+", µs, "+opened.text(), r.median(mOpenCPU, ours, opened), 200, true)
	beside(mFortio, ours, hundred.anew(), 1.1, false)
	beside(mFortio, ours, hundred, 1.2, false)
	add(mIdle+", MB of one end", r.median(mIdle, ours, cell{streams: 1000}), 4.5, true)
	add(mBurst+", to before", r.median(mBurst, ours, cell{streams: burstStreams}), 1.3, true)
	add(mBehind+" to direct's", r.ratioOf(mBehind, ours, cell{streams: 1, size: 64}, toDirect), 5, true)
	beside(mHandshakes, ours, cell{streams: 4}, 1, false)
	beside(mCold, ours, cell{streams: 1, size: 1}, 1, true)
	return list
}

// besideZtunnel is a column's part of what Istio's ztunnel reached in the same repetitions.
func (r *report) besideZtunnel(metric, column string, c cell) float64 {
	return r.ratioOf(metric, column, c, toZtunnel)
}

func toDirect(res result) *float64  { return res.RatioToDirect }
func toZtunnel(res result) *float64 { return res.RatioToZtunnel }

func (r *report) ratioOf(metric, column string, c cell, which func(result) *float64) float64 {
	res, ok := r.find(metric, column, c)
	if !ok || which(res) == nil {
		return math.NaN()
	}
	return *which(res)
}

func (r *report) median(metric, column string, c cell) float64 {
	res, ok := r.find(metric, column, c)
	if !ok {
		return math.NaN()
	}
	return res.Median
}

// writeGoals writes those that are not measured too: a table without them would look as if
// all were met.
func (r *report) writeGoals(b *strings.Builder) {
	b.WriteString("\n| asked beside Istio's ztunnel (the median of the repetitions' ratios) | measured | limit | |\n|---|---|---|---|\n")
	for _, g := range r.Goals {
		sign, value, verdict := "≥", "–", "not in this run"
		if g.AtMost {
			sign = "≤"
		}
		if g.Measured != nil {
			value, verdict = number(*g.Measured), "MISSED"
		}
		if g.Met {
			verdict = "met"
		}
		fmt.Fprintf(b, "| %s | %s | %s %s | %s |\n", g.Goal, value, sign, number(g.Limit), verdict)
	}
	b.WriteString("\nA quiet pod's p99 beside a noisy one is asked and measured by `make bench-noise`.\n")
}
