// SPDX-License-Identifier: Apache-2.0

// Package plot draws bars with their spread, and curves, as SVG and PNG. Both
// come from one list of shapes.
package plot

import (
	"bytes"
	"errors"
	"fmt"
	"image/color"
	"os"
)

// Bar is a median with its quartiles.
type Bar struct{ Value, Low, High float64 }

// Group is the bars of one cell, by series; the zero Bar is missing.
type Group struct {
	Name string
	Bars []Bar
}

// Bars is a chart of groups of bars.
type Bars struct {
	Title, Unit, Footer string
	Series              []string
	Groups              []Group
}

// Curve is the x of y = 0 … 1 in equal steps.
type Curve struct {
	Name string
	X    []float64
}

// CDF is a chart of distributions, with a logarithmic x axis.
type CDF struct {
	Title, Unit, Footer string
	Curves              []Curve
}

// Chart can be drawn.
type Chart interface{ draw(c *canvas) }

// Write draws a chart into path.svg and path.png.
func Write(path string, chart Chart) error {
	var c canvas
	chart.draw(&c)
	var image bytes.Buffer
	if err := c.png(&image); err != nil {
		return fmt.Errorf("draw %s: %w", path, err)
	}
	return errors.Join(os.WriteFile(path+".svg", c.svg(), 0o644), os.WriteFile(path+".png", image.Bytes(), 0o644))
}

// palette holds colours that differ for most eyes (Okabe and Ito), and some
// darker ones.
var palette = []color.RGBA{
	{0x99, 0x99, 0x99, 0xff}, {0x44, 0x44, 0x44, 0xff}, {0xd5, 0x5e, 0x00, 0xff}, {0xe6, 0x9f, 0x00, 0xff}, {0xcc, 0x79, 0xa7, 0xff},
	{0x00, 0x72, 0xb2, 0xff}, {0x56, 0xb4, 0xe9, 0xff}, {0x00, 0x9e, 0x73, 0xff}, {0x8c, 0x56, 0x4b, 0xff}, {0x7a, 0x4f, 0x9b, 0xff}, {0x2f, 0x6b, 0x2f, 0xff},
	{0xf0, 0xc8, 0x20, 0xff}, {0x80, 0x00, 0x20, 0xff}, {0x00, 0x2f, 0x6c, 0xff},
}

var (
	black = color.RGBA{0, 0, 0, 0xff}
	faint = color.RGBA{0xdd, 0xdd, 0xdd, 0xff}
)

func paint(series int) color.RGBA { return palette[series%len(palette)] }
