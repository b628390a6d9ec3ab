// SPDX-License-Identifier: Apache-2.0

package plot

import (
	"fmt"
	"math"
	"strings"
)

// The area of the plot.
const left, right, top, bottom = 110.0, width - 20.0, 110.0, height - 90.0

// frame draws title, footer and legend.
func frame(c *canvas, title, footer string, series []string) {
	c.text(20, 30, 0, title)
	for i, part := range wrap(footer, (width-40)/glyphWidth) {
		c.text(20, float64(height-30+18*i), 0, part)
	}
	x, line := left, 56.0
	for i, name := range series {
		if wide := float64((len([]rune(name)) + 3) * glyphWidth); x+wide > right {
			x, line = left, line+22
		}
		c.box(x, line-12, x+14, line+2, paint(i))
		c.text(x+20, line+2, 0, name)
		x += float64((len([]rune(name)) + 3) * glyphWidth)
	}
}

// wrap parts a list at its commas into lines of at most so many letters.
func wrap(list string, most int) (lines []string) {
	line := ""
	for part := range strings.SplitSeq(list, ", ") {
		if line != "" && len([]rune(line+", "+part)) > most {
			lines, line = append(lines, line+","), ""
		}
		if line != "" {
			line += ", "
		}
		line += part
	}
	return append(lines, line)
}

// scale maps 0 … most to the height of the plot.
type scale struct{ most float64 }

func (s scale) y(v float64) float64 { return bottom - (bottom-top)*v/s.most }

// grid draws round values on the y axis.
func (s scale) grid(c *canvas, unit string) {
	step := math.Pow(10, math.Floor(math.Log10(s.most)))
	for _, divisor := range []float64{1, 2, 5, 10} {
		if s.most/(step/divisor) >= 4 {
			step /= divisor
			break
		}
	}
	for v := 0.0; v <= s.most*1.0001; v += step {
		c.line(left, s.y(v), right, s.y(v), faint)
		c.text(left-8, s.y(v)+6, 1, short(v))
	}
	c.text(left-8, top-10, 1, unit)
	c.line(left, top, left, bottom, black)
	c.line(left, bottom, right, bottom, black)
}

// short is a number in few letters.
func short(v float64) string {
	if v >= 10000 {
		return fmt.Sprintf("%.3gk", v/1000)
	}
	return fmt.Sprintf("%.3g", v)
}

func (b Bars) draw(c *canvas) {
	frame(c, b.Title, b.Footer, b.Series)
	var s scale
	for _, g := range b.Groups {
		for _, bar := range g.Bars {
			s.most = max(s.most, bar.Value, bar.High)
		}
	}
	s.most = max(s.most*1.05, 1e-9)
	s.grid(c, b.Unit)
	room := (right - left) / float64(len(b.Groups))
	for i, g := range b.Groups {
		x := left + room*float64(i)
		c.text(x+room/2-float64(len([]rune(g.Name))*glyphWidth)/2, bottom+22, 0, g.Name)
		one := room * 0.85 / float64(len(g.Bars))
		for j, bar := range g.Bars {
			at := x + room*0.075 + one*float64(j)
			b.bar(c, s, bar, at, one, j)
		}
	}
}

// bar draws one with its quartiles.
func (b Bars) bar(c *canvas, s scale, bar Bar, x, wide float64, series int) {
	if bar == (Bar{}) {
		return
	}
	c.box(x, s.y(max(bar.Value, 0)), x+wide*0.9, bottom, paint(series))
	middle := x + wide*0.45
	c.line(middle, s.y(max(bar.Low, 0)), middle, s.y(max(bar.High, 0)), black)
	for _, v := range []float64{bar.Low, bar.High} {
		c.line(middle-4, s.y(max(v, 0)), middle+4, s.y(max(v, 0)), black)
	}
}

func (d CDF) draw(c *canvas) {
	var names []string
	low, high := math.Inf(1), 0.0
	for _, curve := range d.Curves {
		names = append(names, curve.Name)
		// The slowest of all says nothing of the rest.
		low, high = min(low, curve.X[0]), max(high, curve.X[len(curve.X)*999/1000])
	}
	frame(c, d.Title, d.Footer, names)
	s := scale{1}
	s.grid(c, "share")
	low, high = math.Log(max(low, 1e-9)), math.Log(max(high, 1e-9)*1.05)
	x := func(v float64) float64 { return left + (right-left)*(math.Log(max(v, 1e-9))-low)/(high-low) }
	for _, v := range ticks(math.Exp(low), math.Exp(high)) {
		c.line(x(v), top, x(v), bottom, faint)
		c.text(x(v)+12, bottom+22, 0.5, short(v))
	}
	c.text(right, bottom+42, 1, d.Unit)
	for i, curve := range d.Curves {
		for j := 1; j < len(curve.X) && x(curve.X[j]) <= right; j++ {
			y := func(j int) float64 { return s.y(float64(j) / float64(len(curve.X)-1)) }
			c.line(x(curve.X[j-1]), y(j-1), x(curve.X[j]), y(j), paint(i))
		}
	}
}

// ticks are 1, 2, 5, 10 … between two values.
func ticks(low, high float64) (values []float64) {
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for _, m := range []float64{1, 2, 5} {
			if v := m * decade; v >= low && v <= high {
				values = append(values, v)
			}
		}
	}
	return values
}
