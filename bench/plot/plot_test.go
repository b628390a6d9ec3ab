// SPDX-License-Identifier: Apache-2.0

package plot

import (
	"encoding/xml"
	"errors"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestEveryChartIsWellFormedAndNotEmpty(t *testing.T) {
	for name, chart := range map[string]Chart{
		"bars": Bars{Title: "bulk <throughput>", Unit: "Gb/s", Footer: strings.Repeat("host ", 60), Series: []string{"direct", "ours"},
			Groups: []Group{{"1 forward", []Bar{{40, 38, 42}, {10, 9, 11}}}, {"8 forward", []Bar{{41, 39, 43}, {}}}}},
		"curves": CDF{Title: "RTT", Unit: "µs", Curves: []Curve{{"direct", []float64{10, 20, 30}}, {"ours", []float64{50, 90, 500}}}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), name)
			if err := Write(path, chart); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(path + ".svg")
			if err != nil {
				t.Fatal(err)
			}
			wellFormed(t, string(text))
			f, err := os.Open(path + ".png")
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			img, err := png.Decode(f)
			if err != nil {
				t.Fatal(err)
			}
			if size := img.Bounds().Size(); size.X != width || size.Y != height {
				t.Errorf("the image has %v pixels", size)
			}
		})
	}
}

func wellFormed(t *testing.T, text string) {
	t.Helper()
	for dec := xml.NewDecoder(strings.NewReader(text)); ; {
		if _, err := dec.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
}

func TestEveryLetterOfASCIIHasAGlyph(t *testing.T) {
	box := glyph('\x01')
	for r := '!'; r <= '~'; r++ {
		if g := glyph(r); g == box || g == [5]byte{} {
			t.Errorf("%q has none", r)
		}
	}
}
