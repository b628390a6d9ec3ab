// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"fmt"
	"html"
	"io"
	"strings"
)

const (
	svgWidth   = 860
	svgLabel   = 230 // left of the bars
	svgBars    = 400
	svgLine    = 22
	svgBetween = 14
)

var svgColours = []string{"#4c72b0", "#dd8452", "#55a868", "#c44e52", "#8172b3", "#937860"}

// SVG draws a bar for each result, as long as its part of the best of its row, with a line
// from the lower to the upper quartile.
func (r *Report) SVG(w io.Writer) error {
	var b strings.Builder
	y := svgBetween
	for _, row := range r.Rows {
		best := 0.0
		for _, result := range row.Results {
			best = max(best, result.Upper)
		}
		for i, result := range row.Results {
			label := result.Target
			if i == 0 {
				text(&b, 8, y+15, "start", "bold", row.Name)
				y += svgLine
			}
			text(&b, svgLabel-8, y+15, "end", "normal", label)
			r.bar(&b, y, best, i, row.Unit, result)
			y += svgLine
		}
		y += svgBetween
	}
	_, err := fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="13">
<rect width="100%%" height="100%%" fill="white"/>
%s</svg>
`, svgWidth, y, b.String())
	return err
}

func (r *Report) bar(b *strings.Builder, y int, best float64, colour int, unit string, result Result) {
	if result.Problem != "" || best == 0 {
		text(b, svgLabel, y+15, "start", "normal", "failed")
		return
	}
	at := func(value float64) float64 { return svgLabel + svgBars*value/best }
	fmt.Fprintf(b, "<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", svgLabel, y+2, at(result.Median)-svgLabel, svgLine-4, svgColours[colour%len(svgColours)])
	fmt.Fprintf(b, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"black\"/>\n", at(result.Lower), at(result.Upper), y+svgLine/2, y+svgLine/2)
	text(b, svgLabel+svgBars+10, y+15, "start", "normal", amount(result.Median)+" "+unit)
}

func text(b *strings.Builder, x, y int, anchor, weight, content string) {
	fmt.Fprintf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"%s\" font-weight=\"%s\">%s</text>\n", x, y, anchor, weight, html.EscapeString(content))
}

// amount is a number with three digits that count.
func amount(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

// Lines are the cells of the report's table, under Head.
func (r *Report) Lines() (lines [][]string) {
	for _, row := range r.Rows {
		for i, result := range row.Results {
			name := ""
			if i == 0 {
				name = row.Name
			}
			lines = append(lines, result.line(name, row, r.base(row, i)))
		}
	}
	return lines
}

// base is the median that the i-th result of a row is compared with, 0 for none.
func (r *Report) base(row Results, i int) float64 {
	name := r.Targets[0].Name
	if r.Targets[i].Base != "" {
		name = r.Targets[i].Base
	}
	for _, other := range row.Results {
		if other.Target == name && name != row.Results[i].Target {
			return other.Median
		}
	}
	return 0
}

// Head names the columns of Lines.
const Head = "MEASURED|TARGET|MEDIAN|QUARTILES|OF BASE|LATENCY 50%|LATENCY 99%|CPU BESIDE|MEMORY BESIDE"

func (r Result) line(name string, row Results, base float64) []string {
	if r.Problem != "" {
		return []string{name, r.Target, "failed: " + r.Problem, "", "", "", "", "", ""}
	}
	line := []string{name, r.Target, amount(r.Median) + " " + row.Unit, amount(r.Lower) + " to " + amount(r.Upper), "", "", "", "", ""}
	if base > 0 {
		line[4] = fmt.Sprintf("%.0f%%", 100*r.Median/base)
	}
	if r.Half > 0 {
		line[5], line[6] = amount(r.Half)+" µs", amount(r.Most)+" µs"
	}
	if r.Memory > 0 {
		line[7] = amount(r.CPU) + " s/GB"
		if row.Kind != Bulk {
			line[7] = amount(1000*r.CPU) + " µs each"
		}
		line[8] = fmt.Sprintf("%.0f MB", r.Memory/1e6)
	}
	return line
}
