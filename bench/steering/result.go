// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// result is one number of the table. Median and quartiles are over the
// repetitions of the run; for enrolment, over the pods.
type result struct {
	Row           string   `json:"row"`
	Peer          string   `json:"peer"`             // what is compared
	Family        string   `json:"family,omitempty"` // tcp4 or tcp6
	Unit          string   `json:"unit"`
	Median        float64  `json:"median"`
	P25           float64  `json:"p25"`
	P75           float64  `json:"p75"`
	P95           *float64 `json:"p95,omitempty"`
	N             int      `json:"n"`
	RatioToDirect *float64 `json:"ratio_to_direct,omitempty"` // median of the repetitions' ratios
	AddedToDirect *spread  `json:"added_to_direct,omitempty"` // of their differences
}

// spread is a median with its quartiles.
type spread struct {
	Median float64 `json:"median"`
	P25    float64 `json:"p25"`
	P75    float64 `json:"p75"`
}

// The rows of connects: what is taken of the samples of one repetition.
const (
	connect50 = "connect p50"
	connect99 = "connect p99"
	cycle50   = "socket to close p50"
)

var statistics = []struct {
	row string
	of  func([]sample) float64
}{
	{connect50, func(s []sample) float64 { return quantile(connects(s), 0.50) }},
	{connect99, func(s []sample) float64 { return quantile(connects(s), 0.99) }},
	{cycle50, func(s []sample) float64 { return quantile(cycles(s), 0.50) }},
}

// summarize compares the rows with the plain one, repetition by repetition.
func summarize(all []*measurement) []result {
	var results []result
	for _, statistic := range statistics {
		direct := make(map[string][]float64) // by family
		for _, m := range all {
			values := m.each(statistic.of)
			if m.row == plain {
				direct[m.family] = values
			}
			results = append(results, newResult(statistic.row, m, values, direct[m.family]))
		}
	}
	return results
}

func newResult(row string, m *measurement, values, direct []float64) result {
	s := spreadOf(values)
	r := result{Row: row, Peer: m.row, Family: m.family, Unit: "us", Median: s.Median, P25: s.P25, P75: s.P75, N: len(values)}
	if m.row != plain {
		r.compare(values, direct)
	}
	return r
}

// compare sets values against those of the direct row, one by one: what the
// machine did meanwhile, it did to both.
func (r *result) compare(values, direct []float64) {
	ratios, added := make([]float64, len(values)), make([]float64, len(values))
	for i := range values {
		ratios[i], added[i] = values[i]/direct[i], values[i]-direct[i]
	}
	ratio, difference := spreadOf(ratios).Median, spreadOf(added)
	r.RatioToDirect, r.AddedToDirect = &ratio, &difference
}

// each is a statistic of each repetition, in microseconds.
func (m *measurement) each(statistic func([]sample) float64) []float64 {
	values := make([]float64, len(m.samples))
	for i, samples := range m.samples {
		values[i] = statistic(samples) / 1000
	}
	return values
}

func connects(samples []sample) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = float64(s.Connect)
	}
	return values
}

func cycles(samples []sample) []float64 {
	values := make([]float64, len(samples))
	for i, s := range samples {
		values[i] = float64(s.Cycle)
	}
	return values
}

func spreadOf(values []float64) spread {
	return spread{round(quantile(values, 0.50)), round(quantile(values, 0.25)), round(quantile(values, 0.75))}
}

// round keeps what was measured: nanoseconds of microseconds.
func round(value float64) float64 { return math.Round(value*1000) / 1000 }

// quantile is the nearest rank: a value that was measured.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(rank-1, 0)]
}

// target is what is asked of the results, and what they say.
type target struct {
	Target string  `json:"target"`
	Value  float64 `json:"value"`
	Limit  float64 `json:"limit"`
	Unit   string  `json:"unit"`
	Met    bool    `json:"met"`
}

// judge leaves out the targets whose rows were not measured.
func judge(results []result) []target {
	find := func(row, peer, family string) (result, bool) {
		i := slices.IndexFunc(results, func(r result) bool { return r.Row == row && r.Peer == peer && r.Family == family })
		if i < 0 {
			return result{}, false
		}
		return results[i], true
	}
	var targets []target
	add := func(name string, value, limit float64, unit string) {
		targets = append(targets, target{name, value, limit, unit, value < limit})
	}
	for _, family := range families {
		s, haveSteered := find(connect50, steered, family)
		if haveSteered {
			add(family+": steered connect() p50 over plain", s.AddedToDirect.Median, 5, "us")
		}
		if n, ok := find(connect50, nft, family); ok && haveSteered {
			add(family+": steered connect() p50, less than nftables REDIRECT", s.Median, n.Median, "us")
		}
		if u, ok := find(connect50, unenrolled, family); ok {
			add(family+": connect() p50 of an unenrolled pod over plain", u.AddedToDirect.Median, 1, "us")
		}
	}
	if e, ok := find(enrolling, inMesh, ""); ok {
		add("enrolling a pod, p95", *e.P95, 50, "ms")
	}
	return targets
}
