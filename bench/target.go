// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math"
	"strings"
)

// target is what is asked of the results, as a ratio to others of the run.
type target struct {
	Target string  `json:"target"`
	Value  float64 `json:"value"`
	Limit  float64 `json:"limit"`
	AtMost bool    `json:"at_most"` // or else at least
	Met    bool    `json:"met"`
}

// judgement collects targets. Those whose rows were not measured are left out.
type judgement struct {
	*report
	targets []target
}

// cProxies are what a user would take instead.
var cProxies = []string{nginx, haproxy, stunnel}

func judge(r *report) []target {
	j := judgement{report: r}
	others := append(j.externals(), append([]string{xnet, wireguard}, cProxies...)...)
	for _, d := range []string{forward, reverse} {
		eight := cell{streams: 8, direction: d}
		j.ratio(mCPU, eight, "the best C proxy", cProxies, 0.65, true)
		j.ratio(mCPU, eight, xnet, []string{xnet}, 0.42, true)
		j.ratio(mCPU, eight, "ztunnel", j.externals(), 0.80, true)
		j.compare(oursAES+", "+mCPU+" to ztunnel's with the same cipher, "+eight.text(), j.median(mCPU, oursAES, eight), j.best(mCPU, j.externals(), eight), 0.65, true)
		for _, slower := range []string{oursAESNI, oursPure} {
			j.compare(slower+", "+mCPU+" to the best C proxy, "+eight.text(), j.median(mCPU, slower, eight), j.best(mCPU, cProxies, eight), 0.80, true)
		}
		for _, n := range []int{1, 8, 64} {
			least := 1.3
			if n == 1 {
				least = 1.1
			}
			j.ratio(mBulk, cell{streams: n, direction: d}, "the best other", others, least, false)
			j.ratio(mBulk, cell{streams: n, direction: d}, "two plain relays", []string{relay}, 0.70, false)
			j.otherWay(cell{streams: n, direction: d})
		}
		j.compare("same node, throughput to two nodes', "+eight.text(), j.median(mBulk, ours+sameNode, eight), j.median(mBulk, ours, eight), 1.8, false)
		j.compare("same node, throughput to ztunnel's, "+eight.text(), j.median(mBulk, ours+sameNode, eight), j.best(mBulk, suffixed(j.externals()), eight), 2, false)
		j.compare("same node, CPU to half of two plain relays', "+eight.text(), j.median(mCPU, ours+sameNode, eight), j.median(mCPU, relay, eight)/2, 1.3, true)
		j.absolute(mSyscalls, eight, 12)
		j.absolute(mAllocs, eight, 0.5)
	}
	small := cell{streams: 1, size: 64}
	j.ratio(mAdded, small, xnet, []string{xnet}, 0.80, true)
	j.ratio(mAdded, small, "the best of C proxies and ztunnel", append(j.externals(), cProxies...), 1.0, true)
	opened := cell{streams: 8, size: 64}
	j.ratio(mOpen, opened, "the best C proxy", cProxies, 3, false)
	j.ratio(mOpen, opened, "ztunnel", j.externals(), 1.5, false)
	j.ratio(mOpen, opened, "two plain relays", []string{relay}, 1, false)
	j.add("CPU per connection beyond two plain relays', µs", j.median(mOpenCPU, ours, opened)-j.median(mOpenCPU, relay, opened), 20, true)
	j.absolute(mIdle, cell{streams: 1000}, 6)
	j.ratio(mIdle, cell{streams: 1000}, "a plain relay", []string{relay}, 2, true)
	j.absolute(mTunnels, cell{streams: 200}, 8)
	j.compare(mTunnels+" to a plain relay's idle streams", j.median(mTunnels, ours, cell{streams: 200}), j.median(mIdle, relay, cell{streams: 1000}), 2, true)
	j.ratio(mBehind, small, direct, []string{direct}, 2, true)
	return j.targets
}

// externals are the columns that were given.
func (j *judgement) externals() (names []string) {
	for _, c := range j.Columns {
		if !known(c.Name, peerNames) && !strings.HasSuffix(c.Name, sameNode) && !strings.Contains(c.Name, into) {
			names = append(names, c.Name)
		}
	}
	return names
}

// otherWay asks of the slower direction.
func (j *judgement) otherWay(c cell) {
	back := c
	back.direction = forward
	if c.direction == forward {
		back.direction = reverse
	}
	j.compare("throughput to the other direction, "+c.text(), j.median(mBulk, ours, c), j.median(mBulk, ours, back), 0.85, false)
}

func suffixed(names []string) (with []string) {
	for _, n := range names {
		with = append(with, n+sameNode)
	}
	return with
}

// best is the best of some columns.
func (j *judgement) best(metric string, peers []string, c cell) float64 {
	best := math.NaN()
	for _, p := range peers {
		v := j.median(metric, p, c)
		if math.IsNaN(best) || (v > best) == betterIfHigher(metric) && !math.IsNaN(v) {
			best = v
		}
	}
	return best
}

func betterIfHigher(name string) bool {
	for _, m := range metrics {
		if m.name == name {
			return m.higher
		}
	}
	return false
}

func (j *judgement) ratio(metric string, c cell, others string, peers []string, limit float64, atMost bool) {
	j.compare(fmt.Sprintf("%s to %s, %s", metric, others, c.text()), j.median(metric, ours, c), j.best(metric, peers, c), limit, atMost)
}

func (j *judgement) compare(name string, value, base, limit float64, atMost bool) {
	j.add(name, value/base, limit, atMost)
}

func (j *judgement) absolute(metric string, c cell, limit float64) {
	j.add(metric+", "+c.text(), j.median(metric, ours, c), limit, true)
}

func (j *judgement) add(name string, value, limit float64, atMost bool) {
	if math.IsNaN(value) || math.IsInf(value, 0) {
		return
	}
	j.targets = append(j.targets, target{name, round(value), limit, atMost, (value <= limit) == atMost || value == limit})
}

func (r *report) writeTargets(b *strings.Builder) {
	if len(r.Targets) == 0 {
		return
	}
	b.WriteString("\n| asked of ours | measured | limit | |\n|---|---|---|---|\n")
	for _, t := range r.Targets {
		sign, verdict := "≥", "met"
		if t.AtMost {
			sign = "≤"
		}
		if !t.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(b, "| %s | %s | %s %s | %s |\n", t.Target, number(t.Value), sign, number(t.Limit), verdict)
	}
}
