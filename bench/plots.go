// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"image/color"
	"path/filepath"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// The size of a chart, in points: a PNG has 96/72 pixels a point.
const chartWidth, chartHeight = 780, 480

// painted are the columns in the sequence of their colours, which are the same in all charts.
var painted = []string{
	ours, istios, relay, direct, ours + sameNode, oursStd, oursAES, oursAESNI, oursPure, xnet, istios + sameNode,
	ours + into + istios, istios + into + ours, stunnel, nginx, haproxy, wireguard,
}

// colours differ for all eyes (Okabe and Ito, and darker ones of theirs); ours and ztunnel
// have the two that differ most.
var colours = []color.RGBA{
	{0xd5, 0x5e, 0x00, 0xff}, {0x00, 0x72, 0xb2, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0x99, 0x99, 0x99, 0xff}, {0xe6, 0x9f, 0x00, 0xff},
	{0x56, 0xb4, 0xe9, 0xff}, {0xcc, 0x79, 0xa7, 0xff}, {0x44, 0x44, 0x44, 0xff}, {0x8c, 0x56, 0x4b, 0xff}, {0x7a, 0x4f, 0x9b, 0xff},
	{0x2f, 0x6b, 0x2f, 0xff}, {0xf0, 0xc8, 0x20, 0xff}, {0x80, 0x00, 0x20, 0xff}, {0x00, 0x2f, 0x6c, 0xff}, {0xb8, 0xd0, 0xa0, 0xff},
	{0xff, 0x9d, 0xa7, 0xff}, {0x17, 0xbe, 0xcf, 0xff},
}

// colourOf is a column's; others share the last ones.
func colourOf(name string) color.RGBA {
	if i := slices.Index(painted, name); i >= 0 {
		return colours[i]
	}
	return colours[len(colours)-1-len(name)%4]
}

// plots draws a chart for each metric, and the distribution of the round trip.
func (r *report) plots(dir string) error {
	var errs []error
	for _, m := range metrics {
		if cells, peers := r.cellsOf(m.name); len(cells) > 0 {
			errs = append(errs, write(r.bars(m, cells, r.ranked(m, cells[0], peers)), dir, fileName(m.name)))
		}
	}
	if len(r.Latency) > 0 {
		errs = append(errs, write(r.distribution(), dir, "latency"))
	}
	return errors.Join(errs...)
}

func write(p *plot.Plot, dir, name string) error {
	var errs []error
	for _, kind := range []string{".svg", ".png"} {
		errs = append(errs, p.Save(chartWidth, chartHeight, filepath.Join(dir, name+kind)))
	}
	return errors.Join(errs...)
}

// ranked has those first that a reader looks for: ours, Istio's ztunnel, the best other.
func (r *report) ranked(m metric, first cell, peers []string) []string {
	var best string
	var value float64
	for _, name := range peers {
		res, ok := r.find(m.name, name, first)
		if !ok || strings.HasPrefix(name, ours) || name == istios || name == direct || strings.Contains(name, into) {
			continue
		}
		if best == "" || (res.Median > value) == m.higher {
			best, value = name, res.Median
		}
	}
	rank := func(name string) int {
		return (slices.Index([]string{best, istios, ours}, name) + 1) * -1
	}
	sorted := slices.Clone(peers)
	slices.SortStableFunc(sorted, func(a, b string) int { return rank(a) - rank(b) })
	return sorted
}

// newPlot has a title, the unit of its measure, and below it the machine.
func (r *report) newPlot(title, unit string) *plot.Plot {
	p := plot.New()
	p.Title.Text = title
	p.Title.TextStyle.Font = font.From(p.Title.TextStyle.Font, 14)
	p.Legend.Top, p.Legend.TextStyle.Font.Size = true, 9
	p.X.Label.Text, p.X.Label.TextStyle.Font.Size = wrapped(r.machine(), 150), 6
	p.Y.Label.Text = unit
	p.Add(plotter.NewGrid())
	return p
}

// wrapped breaks a line at spaces, each at most that long.
func wrapped(line string, most int) string {
	var b strings.Builder
	n := 0
	for _, word := range strings.Fields(line) {
		switch {
		case n > 0 && n+1+len(word) > most:
			b.WriteByte('\n')
			n = 0
		case n > 0:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(word)
		n += len(word)
	}
	return b.String()
}

// bars is a group of bars for each cell, with the quartiles.
func (r *report) bars(m metric, cells []cell, peers []string) *plot.Plot {
	p := r.newPlot(m.name+": median and quartiles", symbol(m.unit))
	p.Y.Min = 0
	p.X.Min, p.X.Max = -0.5, float64(len(cells))-0.5
	wide := 0.86 / float64(len(peers))
	for i, name := range peers {
		var spread spreads
		paint := colourOf(name)
		for k, c := range cells {
			res, ok := r.find(m.name, name, c)
			if !ok {
				continue
			}
			at := float64(k) + (float64(i)-float64(len(peers)-1)/2)*wide
			bar, err := plotter.NewPolygon(plotter.XYs{{X: at - wide*0.45}, {X: at - wide*0.45, Y: res.Median}, {X: at + wide*0.45, Y: res.Median}, {X: at + wide*0.45}})
			if err != nil {
				continue // a number that is none
			}
			bar.Color, bar.LineStyle.Width = paint, 0
			p.Add(bar)
			spread = append(spread, quartiles{at, res.Median, res.P25, res.P75})
		}
		p.Legend.Add(name, swatch{paint})
		if len(spread) == 0 {
			continue
		}
		if whiskers, err := plotter.NewYErrorBars(spread); err == nil {
			whiskers.LineStyle.Width, whiskers.CapWidth = vg.Points(0.7), vg.Points(3)
			p.Add(whiskers)
		}
	}
	var names []string
	for _, c := range cells {
		names = append(names, c.text())
	}
	p.NominalX(names...)
	p.X.Tick.Label.Font.Size = 9
	p.Y.Max *= 1 + 0.035*float64(len(peers)) // room for the legend
	return p
}

// distribution shows what share of the round trips took no longer.
func (r *report) distribution() *plot.Plot {
	p := r.newPlot("round trip of 64 B: share that took no longer", "share")
	p.Legend.Top, p.Legend.Left = false, false
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.X.Label.Text = "µs\n" + p.X.Label.Text
	for _, c := range r.Columns {
		quantiles := r.Latency[c.Name]
		var line plotter.XYs
		for k, x := range quantiles {
			if x > 0 {
				line = append(line, plotter.XY{X: x, Y: float64(k) / float64(len(quantiles)-1)})
			}
		}
		curve, err := plotter.NewLine(line)
		if err != nil {
			continue // of none
		}
		curve.Color, curve.Width = colourOf(c.Name), vg.Points(1.4)
		if !strings.HasPrefix(c.Name, ours) {
			curve.Dashes = []vg.Length{vg.Points(4), vg.Points(2)}
		}
		p.Add(curve)
		p.Legend.Add(c.Name, curve)
	}
	return p
}

// quartiles is a bar's end and its spread.
type quartiles struct{ x, median, low, high float64 }

type spreads []quartiles

func (s spreads) Len() int                { return len(s) }
func (s spreads) XY(i int) (x, y float64) { return s[i].x, s[i].median }
func (s spreads) YError(i int) (low, high float64) {
	return s[i].median - s[i].low, s[i].high - s[i].median
}

// swatch is a colour in the legend.
type swatch struct{ color.Color }

func (s swatch) Thumbnail(c *draw.Canvas) {
	c.FillPolygon(s.Color, []vg.Point{c.Min, {X: c.Min.X, Y: c.Max.Y}, c.Max, {X: c.Max.X, Y: c.Min.Y}})
}

// fileName is a metric's name as that of a file.
func fileName(metric string) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", "(", "", ")", "").Replace(metric))
}
