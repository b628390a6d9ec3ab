// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/bench/host"
)

// report is the file that a run writes.
type report struct {
	Host    host.Host `json:"host"`
	Results []result  `json:"results"`
	Targets []target  `json:"targets"`
	Notes   []string  `json:"notes,omitempty"`
}

func (r report) write(path string) error {
	var text bytes.Buffer
	indented := json.NewEncoder(&text)
	indented.SetIndent("", "  ")
	indented.SetEscapeHTML(false)
	if err := indented.Encode(r); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text.Bytes(), 0o644)
}

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d × %s, %s, commit %s, %s, load %s\n", r.Host.Kernel, r.Host.CPUs, r.Host.CPU,
		r.Host.Go, r.Host.Commit, r.Host.Time, r.Host.Load)
	r.writeResults(&b)
	b.WriteString("\n| target | measured | limit | |\n|---|---|---|---|\n")
	for _, t := range r.Targets {
		verdict := "met"
		if !t.Met {
			verdict = "MISSED"
		}
		fmt.Fprintf(&b, "| %s | %.2f %s | < %.2f %s | %s |\n", t.Target, t.Value, symbol(t.Unit), t.Limit, symbol(t.Unit), verdict)
	}
	for _, note := range r.Notes {
		fmt.Fprintf(&b, "\nNote: %s.\n", note)
	}
	return b.String()
}

// writeResults writes the results, in a table for each row.
func (r report) writeResults(b *strings.Builder) {
	row := ""
	for _, res := range r.Results {
		if res.Row != row {
			row = res.Row
			fmt.Fprintf(b, "\n| %s | median (quartiles) | p95 | added to the first | ratio | n |\n|---|---|---|---|---|---|\n", row)
		}
		unit := symbol(res.Unit)
		cells := []string{
			strings.TrimSpace(res.Peer + " " + res.Family),
			spread{res.Median, res.P25, res.P75}.text("%.2f") + " " + unit, "", "", "", fmt.Sprint(res.N),
		}
		if res.P95 != nil {
			cells[2] = fmt.Sprintf("%.2f %s", *res.P95, unit)
		}
		if res.AddedToDirect != nil {
			cells[3] = res.AddedToDirect.text("%+.2f") + " " + unit
		}
		if res.RatioToDirect != nil {
			cells[4] = fmt.Sprintf("%.2f", *res.RatioToDirect)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
	}
}

// text shows each number by verb.
func (s spread) text(verb string) string {
	return fmt.Sprintf(verb+" ("+verb+" … "+verb+")", s.Median, s.P25, s.P75)
}

func symbol(unit string) string {
	if unit == "us" {
		return "µs"
	}
	return unit
}
