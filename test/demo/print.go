// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// printer writes for people: colours on a terminal, plain text elsewhere.
type printer struct {
	w        io.Writer
	terminal bool
	colour   bool
	step     int
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	blue  = "36"
)

func newPrinter(f *os.File) *printer {
	st, err := f.Stat()
	terminal := err == nil && st.Mode()&os.ModeCharDevice != 0
	return &printer{w: f, terminal: terminal, colour: terminal && os.Getenv("NO_COLOR") == ""}
}

func (p *printer) paint(colour, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (p *printer) line(format string, args ...any) {
	fmt.Fprintf(p.w, format+"\n", args...)
}

func (p *printer) title(text string) { p.line("\n%s\n", p.paint(bold, text)) }

// begin opens the next step.
func (p *printer) begin(text string) {
	p.step++
	p.line("\n%s %s", p.paint(blue, fmt.Sprintf("%d.", p.step)), p.paint(bold, text))
}

// proved says what was just checked, and shows by what.
func (p *printer) proved(what string, evidence ...string) {
	p.line("   %s %s", p.paint(green, "✓"), what)
	for _, e := range evidence {
		for l := range strings.Lines(e) {
			p.line("       %s", p.paint(dim, strings.TrimRight(l, "\n")))
		}
	}
}

func (p *printer) bad(err error) {
	p.line("   %s %v", p.paint(red, "✗"), err)
}

func (p *printer) note(format string, args ...any) {
	p.line("   %s", p.paint(dim, fmt.Sprintf(format, args...)))
}

// show prints a text as a user would type it into a file.
func (p *printer) show(text string) {
	for l := range strings.Lines(text) {
		p.line("       %s", p.paint(blue, strings.TrimRight(l, "\n")))
	}
}
