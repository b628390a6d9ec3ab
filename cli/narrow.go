// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
)

const gap = 3 // spaces between the columns of a table

// sheet is what will be shown on a screen.
type sheet struct {
	bytes.Buffer
	width int // in columns; 0: there is no screen
}

// widthOf is how many columns the terminal has that w leads to; 0: it is none.
func widthOf(w io.Writer) int {
	if p, ok := w.(*sheet); ok {
		return p.width
	}
	file := terminal(w)
	if file == nil {
		return 0
	}
	width, _, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0
	}
	return width
}

// narrow writes a table for a terminal that it is too wide for: the columns that have room,
// and below each row what it says in the others, by their names.
func narrow(w io.Writer, width int, heads []string, rows [][]string) error {
	room := roomFor(width, heads, rows)
	first, notes := make([][]string, len(rows)), make([][]string, len(rows))
	for i, row := range rows {
		first[i], notes[i] = row[:room], others(width-len(noteIndent), heads[room:], row[room:])
	}
	return tableWithNotes(w, strings.Join(heads[:room], "|"), first, notes)
}

// roomFor is how many columns of a table have room, from the left: one at least. Of rows
// that are not of the table's columns it is all.
func roomFor(width int, heads []string, rows [][]string) int {
	if slices.ContainsFunc(rows, func(row []string) bool { return len(row) != len(heads) }) {
		return len(heads)
	}
	used := 0
	for i, head := range heads {
		widest := utf8.RuneCountInString(head)
		for _, row := range rows {
			widest = max(widest, utf8.RuneCountInString(row[i]))
		}
		if used += widest; used > width && i > 0 {
			return i
		}
		used += gap
	}
	return len(heads)
}

// others are cells behind the names of their columns, some in a line. A cell that is longer
// than a line stays whole.
func others(width int, heads, cells []string) (lines []string) {
	line := ""
	for i, cell := range cells {
		if cell == "-" {
			continue
		}
		pair := heads[i] + " " + cell
		switch joined := line + strings.Repeat(" ", gap) + pair; {
		case line == "":
			line = pair
		case utf8.RuneCountInString(joined) > width:
			lines, line = append(lines, line), pair
		default:
			line = joined
		}
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
