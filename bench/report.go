// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/bench/host"
)

// report is the file that a run writes.
type report struct {
	Host        host.Host            `json:"host"`
	Lacks       []string             `json:"lacks"` // what a whole run has and this one has not
	Settings    settings             `json:"settings"`
	Columns     []column             `json:"columns"`
	Calibration calibration          `json:"calibration"` // in seconds; the median of all batches
	Results     []result             `json:"results"`
	Targets     []target             `json:"targets"`
	Goals       []goal               `json:"goals"`
	Notes       []string             `json:"notes"`
	Latency     map[string][]float64 `json:"latency_us"` // of 64 B, by column: the quantiles at 0, 1/100 … 1
}

type settings struct {
	Repetitions int     `json:"repetitions"`
	Seconds     float64 `json:"seconds"`
	Congestion  string  `json:"congestion_control"`
}

// column says what is behind a name.
type column struct {
	Name  string   `json:"name"`
	About []string `json:"about"`
}

func newReport(m *measurement, h host.Host) *report {
	r := &report{
		Host:     h,
		Settings: settings{m.repetitions, m.duration.Seconds(), m.plain[0].load.Congestion},
		Lacks:    m.missing(), Notes: m.notes, Latency: make(map[string][]float64),
	}
	var all []calibration
	for _, s := range m.stages {
		r.Results = append(r.Results, s.results(m.peers)...)
		all = append(all, s.calibrations...)
	}
	if len(all) > 0 { // else all failed, and JSON knows no NaN
		r.Calibration = typical(all)
	}
	for _, p := range m.peers {
		r.Columns = append(r.Columns, column{p.name, p.about})
		for i := 0; i < len(m.latency[p.name]); i += 10 {
			r.Latency[p.name] = append(r.Latency[p.name], round(m.latency[p.name][i]))
		}
	}
	r.Targets, r.Goals = judge(r), r.goals()
	return r
}

// complete is an error if a column lost something: for the smoke run.
func (r *report) complete() error {
	var errs []error
	for _, note := range r.Notes {
		if strings.Contains(note, "is lost") {
			errs = append(errs, errors.New(note))
		}
	}
	return errors.Join(errs...)
}

func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	var text bytes.Buffer
	indented := json.NewEncoder(&text)
	indented.SetIndent("", " ")
	indented.SetEscapeHTML(false)
	if err := indented.Encode(r); err != nil {
		return err
	}
	return errors.Join(
		os.WriteFile(filepath.Join(dir, "latest.json"), text.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "latest.md"), []byte(r.markdown()), 0o644),
		r.plots(dir),
	)
}

func (r *report) find(row, peer string, c cell) (result, bool) {
	for _, res := range r.Results {
		if res.Row == row && res.Peer == peer && res.cell() == c {
			return res, true
		}
	}
	return result{}, false
}

// machine is the line that stands below every table and plot.
func (r *report) machine() string {
	return fmt.Sprintf("Linux %s, %d × %s [%s], %s, commit %s, %s, load %s, %s", r.Host.Kernel, r.Host.CPUs, r.Host.CPU,
		strings.Join(r.Host.CPUFlags, " "), r.Host.Go, r.Host.Commit, r.Host.Time, r.Host.Load, r.Settings.Congestion)
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nMedian (quartiles) of %d repetitions of %g s, by turns.\n", r.machine(), r.Settings.Repetitions, r.Settings.Seconds)
	if len(r.Lacks) > 0 {
		fmt.Fprintf(&b, "\nNot a whole run: it lacks %s.\n", strings.Join(r.Lacks, ", "))
	}
	for _, m := range metrics {
		r.writeTable(&b, m)
	}
	r.writeScaling(&b)
	r.writeGoals(&b)
	r.writeTargets(&b)
	b.WriteString("\n| column | |\n|---|---|\n")
	for _, c := range r.Columns {
		fmt.Fprintf(&b, "| %s | %s |\n", c.Name, strings.Join(c.About, "; "))
	}
	c := r.Calibration
	fmt.Fprintf(&b, "\nCalibration: a TCP hop %.0f ps/B, seal %.0f and open %.0f ps/B (crypto/cipher), sign %.1f µs, verify %.1f µs, X25519 %.1f µs, "+
		"connect to close %.1f µs, echo %.1f µs, one more process on the way %.1f µs.\n",
		c.Hop*1e12, c.Seal*1e12, c.Open*1e12, c.Sign*1e6, c.Verify*1e6, c.X25519*1e6, c.Connect*1e6, c.Echo*1e6, c.Wake*1e6)
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "\nNote: %s.\n", strings.TrimSpace(note))
	}
	return b.String()
}

// writeTable writes a metric: a line for each column, a field for each cell,
// and below them the limit and what ours is of it.
func (r *report) writeTable(b *strings.Builder, m metric) {
	cells, lines := r.cellsOf(m.name)
	if len(cells) == 0 {
		return
	}
	title := m.name
	if m.unit != "" {
		title += ", " + symbol(m.unit)
	}
	fmt.Fprintf(b, "\n| %s |", title)
	for _, c := range cells {
		fmt.Fprintf(b, " %s |", c.text())
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(cells)) + "\n")
	for _, peer := range lines {
		r.writeLine(b, peer, cells, func(c cell) string { return r.field(m, peer, c) })
	}
	r.writeLine(b, "*limit of a tunnel*", cells, func(c cell) string { return r.limitField(m, c) })
	r.writeLine(b, "*ours, of its limit*", cells, func(c cell) string {
		if res, ok := r.find(m.name, ours, c); ok && res.PercentOfLimit != nil {
			return fmt.Sprintf("%.0f %%", *res.PercentOfLimit)
		}
		return ""
	})
}

// cellsOf are the cells and columns that have the metric.
func (r *report) cellsOf(metric string) (cells []cell, peers []string) {
	seen, named := make(map[cell]bool), make(map[string]bool)
	for _, res := range r.Results {
		if res.Row != metric {
			continue
		}
		if c := res.cell(); !seen[c] {
			seen[c], cells = true, append(cells, c)
		}
		named[res.Peer] = true
	}
	for _, c := range r.Columns {
		if named[c.Name] {
			peers = append(peers, c.Name)
		}
	}
	return cells, peers
}

func (r *report) writeLine(b *strings.Builder, head string, cells []cell, field func(cell) string) {
	fmt.Fprintf(b, "| %s |", head)
	for _, c := range cells {
		fmt.Fprintf(b, " %s |", field(c))
	}
	b.WriteString("\n")
}

func (r *report) field(m metric, peer string, c cell) string {
	res, ok := r.find(m.name, peer, c)
	if !ok {
		return "–"
	}
	text := number(res.Median)
	if res.N > 1 {
		text += fmt.Sprintf(" (%s … %s)", number(res.P25), number(res.P75))
	}
	if res.RatioToDirect != nil && peer != direct {
		text += fmt.Sprintf(" ×%s", number(*res.RatioToDirect))
	}
	if res.N < r.Settings.Repetitions {
		text += fmt.Sprintf(" n=%d", res.N)
	}
	return text
}

// limitField is the limit of two nodes with crypto: that of ours or, without
// it, of any column that has one.
func (r *report) limitField(m metric, c cell) string {
	for _, peer := range []string{ours, xnet, nginx, haproxy, stunnel} {
		if res, ok := r.find(m.name, peer, c); ok && res.Limit != nil {
			return number(*res.Limit)
		}
	}
	return ""
}

// number shows three digits.
func number(v float64) string {
	if v == 0 {
		return "0"
	}
	return fmt.Sprintf("%.*f", max(2-int(math.Floor(math.Log10(math.Abs(v)))), 0), v)
}

func symbol(unit string) string {
	if unit == "us" {
		return "µs"
	}
	return unit
}
