// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/bench/plot"
)

// plots draws a chart for each metric, and the distribution of the round trip.
func (r *report) plots(dir string) error {
	var errs []error
	for _, m := range metrics {
		cells, peers := r.cellsOf(m.name)
		if len(cells) > 0 {
			errs = append(errs, plot.Write(filepath.Join(dir, fileName(m.name)), r.bars(m, cells, peers)))
		}
	}
	chart := plot.CDF{Title: "round trip of 64 B", Unit: "µs", Footer: r.machine()}
	for _, c := range r.Columns {
		if x := r.curves[c.Name]; len(x) > 0 {
			chart.Curves = append(chart.Curves, plot.Curve{Name: c.Name, X: x})
		}
	}
	if len(chart.Curves) > 0 {
		errs = append(errs, plot.Write(filepath.Join(dir, "latency"), chart))
	}
	return errors.Join(errs...)
}

func (r *report) bars(m metric, cells []cell, peers []string) plot.Bars {
	chart := plot.Bars{Title: m.name + ": median and quartiles", Unit: symbol(m.unit), Footer: r.machine(), Series: peers}
	for _, c := range cells {
		group := plot.Group{Name: c.text()}
		for _, p := range peers {
			res, _ := r.find(m.name, p, c)
			group.Bars = append(group.Bars, plot.Bar{Value: res.Median, Low: res.P25, High: res.P75})
		}
		chart.Groups = append(chart.Groups, group)
	}
	return chart
}

// fileName is a metric's name as that of a file.
func fileName(metric string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", "(", "", ")", "").Replace(metric))
}
