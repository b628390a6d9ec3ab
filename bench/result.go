// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math"
	"slices"
)

// result is one number of the table: a metric of a column, over the
// repetitions.
type result struct {
	Row            string   `json:"row"`
	Peer           string   `json:"peer"`
	Streams        int      `json:"streams"`
	Direction      string   `json:"direction,omitempty"`
	Size           int      `json:"size,omitempty"` // of messages, in bytes
	Rate           int      `json:"rate,omitempty"` // of messages a second
	Once           bool     `json:"once,omitempty"` // a connection for each message
	CPUs           int      `json:"cpus,omitempty"` // that both proxies are confined to
	Unit           string   `json:"unit"`
	Median         float64  `json:"median"`
	P25            float64  `json:"p25"`
	P75            float64  `json:"p75"`
	N              int      `json:"n"`
	RatioToDirect  *float64 `json:"ratio_to_direct"` // median of the repetitions' ratios
	RatioToZtunnel *float64 `json:"ratio_to_ztunnel,omitempty"`
	Limit          *float64 `json:"limit"` // by the formula, from the calibration of the batch
	PercentOfLimit *float64 `json:"percent_of_limit"`
}

// cell is where in the table it stands.
func (r result) cell() cell { return cell{r.Streams, r.Direction, r.Size, r.Rate, r.Once, r.CPUs} }

// results are those of a stage.
func (s *stage) results(peers []*peer) (all []result) {
	s.addDifferences()
	cal := typical(s.calibrations)
	for _, m := range metrics {
		for _, p := range peers {
			if values := s.samples[m.name][p.name]; count(values) > 0 {
				all = append(all, s.result(m, p, values, cal))
			}
		}
	}
	return all
}

// addDifferences adds what a column adds to direct's round trip of the same
// repetition.
func (s *stage) addDifferences() {
	base := s.samples[mRTT50][direct]
	for peer, values := range s.samples[mRTT50] {
		for i, value := range values {
			if peer != direct && i < len(base) && !math.IsNaN(value-base[i]) {
				s.keep(peer, i, readings{mAdded: value - base[i]})
			}
		}
	}
}

func (s *stage) result(m metric, p *peer, values []float64, cal calibration) result {
	r := result{
		Row: m.name, Peer: p.name, Streams: s.cell.streams, Direction: s.cell.direction, Size: s.cell.size, Rate: s.cell.rate, Once: s.cell.once, CPUs: s.cell.cpus, Unit: m.unit,
		Median: round(quantile(values, 0.5)), P25: round(quantile(values, 0.25)), P75: round(quantile(values, 0.75)), N: count(values),
	}
	r.RatioToDirect = ratio(values, s.samples[m.name][direct])
	if p.name != istios {
		r.RatioToZtunnel = ratio(values, s.samples[m.name][istios])
	}
	if limit := cal.limit(m.name, s.cell, p); p.hops > 1 && !math.IsNaN(limit) {
		rounded := round(limit)
		r.Limit = &rounded
		share := 100 * r.Median / limit
		if !m.higher {
			share = 100 * limit / r.Median
		}
		if limit > 0 && r.Median > 0 {
			share = round(share)
			r.PercentOfLimit = &share
		}
	}
	return r
}

// ratio is the median of the ratios, repetition by repetition: what the
// machine did meanwhile, it did to both.
func ratio(values, base []float64) *float64 {
	var ratios []float64
	for i, value := range values {
		if i < len(base) && base[i] > 0 && !math.IsNaN(value) {
			ratios = append(ratios, value/base[i])
		}
	}
	if len(ratios) == 0 {
		return nil
	}
	r := round(quantile(ratios, 0.5))
	return &r
}

func count(values []float64) (n int) {
	for _, v := range values {
		if !math.IsNaN(v) {
			n++
		}
	}
	return n
}

// quantile is the nearest rank: a value that was measured.
func quantile(values []float64, q float64) float64 {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(sorted) == 0 {
		return math.NaN()
	}
	slices.Sort(sorted)
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// round keeps four digits of what is measured to two at best.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return v
	}
	scale := math.Pow(10, 4-math.Ceil(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}
