// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// columns writes rows one by one, as they come: a column is as wide as its widest cell so
// far. The first write that fails is the end of all.
type columns struct {
	w      io.Writer
	widths []int
}

// row writes one line. What is empty becomes "-".
func (c *columns) row(cells ...string) error {
	var line strings.Builder
	for i, cell := range cells {
		if cell = printable(cell); cell == "" {
			cell = "-"
		}
		if i == len(c.widths) {
			c.widths = append(c.widths, 0)
		}
		c.widths[i] = max(c.widths[i], utf8.RuneCountInString(cell))
		if i == len(cells)-1 {
			line.WriteString(cell)
			continue
		}
		fmt.Fprintf(&line, "%-*s  ", c.widths[i], cell)
	}
	_, err := fmt.Fprintln(c.w, line.String())
	return err
}
