// SPDX-License-Identifier: Apache-2.0

package plot

import (
	"bytes"
	"fmt"
	"html"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"io"
	"math"
)

const width, height = 1200, 640

// Text is laid out by cells of the PNG's font, in which SVG's is no wider.
const glyphWidth, glyphHeight = 12, 14

// canvas is a list of shapes.
type canvas struct{ shapes []shape }

// shape is a filled box, a line or, if it has one, a text.
type shape struct {
	x, y, x2, y2 float64
	color        color.RGBA
	text         string
	box          bool
}

func (c *canvas) box(x, y, x2, y2 float64, paint color.RGBA) {
	c.shapes = append(c.shapes, shape{x: x, y: y, x2: x2, y2: y2, color: paint, box: true})
}

func (c *canvas) line(x, y, x2, y2 float64, paint color.RGBA) {
	c.shapes = append(c.shapes, shape{x: x, y: y, x2: x2, y2: y2, color: paint})
}

// text begins at x and stands on y. at is where x is: 0 its begin, 1 its end.
func (c *canvas) text(x, y, at float64, text string) {
	x -= at * float64(len([]rune(text))*glyphWidth)
	c.shapes = append(c.shapes, shape{x: x, y: y, color: black, text: text})
}

func hex(c color.RGBA) string { return fmt.Sprintf("#%02x%02x%02x", c.R, c.G, c.B) }

func (c *canvas) svg() []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="monospace" font-size="16">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for _, s := range c.shapes {
		switch {
		case s.text != "":
			fmt.Fprintf(&b, `<text x="%.1f" y="%.1f" textLength="%d" lengthAdjust="spacingAndGlyphs">%s</text>`+"\n",
				s.x, s.y, len([]rune(s.text))*glyphWidth, html.EscapeString(s.text))
		case s.box:
			fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n", s.x, s.y, s.x2-s.x, s.y2-s.y, hex(s.color))
		default:
			fmt.Fprintf(&b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s" stroke-width="1.5"/>`+"\n", s.x, s.y, s.x2, s.y2, hex(s.color))
		}
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

func (c *canvas) png(w io.Writer) error {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(img, img.Bounds(), image.White, image.Point{}, draw.Src)
	for _, s := range c.shapes {
		switch {
		case s.text != "":
			write(img, int(s.x), int(s.y), s.text)
		case s.box:
			area := image.Rect(int(s.x), int(s.y), int(math.Ceil(s.x2)), int(math.Ceil(s.y2)))
			draw.Draw(img, area, image.NewUniform(s.color), image.Point{}, draw.Src)
		default:
			stroke(img, s)
		}
	}
	return png.Encode(w, img)
}

// stroke draws a line two pixels wide.
func stroke(img draw.Image, s shape) {
	steps := int(max(math.Abs(s.x2-s.x), math.Abs(s.y2-s.y), 1))
	for i := 0; i <= steps; i++ {
		t := float64(i) / float64(steps)
		x, y := int(s.x+t*(s.x2-s.x)), int(s.y+t*(s.y2-s.y))
		img.Set(x, y, s.color)
		img.Set(x+1, y, s.color)
		img.Set(x, y+1, s.color)
	}
}

// write draws a text whose line is at y.
func write(img draw.Image, x, y int, text string) {
	for _, r := range text {
		for column, bits := range glyph(r) {
			for row := range 8 {
				if bits>>row&1 == 1 {
					draw.Draw(img, image.Rect(x+2*column, y-glyphHeight+2*row, x+2*column+2, y-glyphHeight+2*row+2), image.Black, image.Point{}, draw.Src)
				}
			}
		}
		x += glyphWidth
	}
}
