// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// screen shows a text that changes: in place on a terminal, else one after the other.
type screen struct {
	out    io.Writer
	height func() int // of the terminal; nil: there is none
	shown  bool
}

func screenOf(out io.Writer) *screen {
	s := &screen{out: out}
	if file := terminal(out); file != nil {
		s.height = func() int {
			_, height, err := term.GetSize(int(file.Fd()))
			if err != nil {
				return 24
			}
			return height
		}
	}
	return s
}

// terminal is w if it is one, else nil.
func terminal(w io.Writer) *os.File {
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return file
	}
	return nil
}

// show replaces what was shown, or adds to it below a line between.
func (s *screen) show(between string, text []byte) error {
	var all bytes.Buffer
	switch {
	case s.height != nil:
		all.WriteString("\x1b[H\x1b[2J\x1b[3J") // home, and nothing on it or above
		text = fitting(text, s.height()-1)
	case s.shown:
		all.WriteString(between)
	}
	s.shown = true
	all.Write(text)
	_, err := s.out.Write(all.Bytes())
	return err
}

// fitting is as much of a text as has room in so many lines, with how much has not.
func fitting(text []byte, lines int) []byte {
	all := bytes.SplitAfter(text, []byte("\n"))
	if most := max(lines, 2); len(all)-1 > most {
		cut := len(all) - 1 - (most - 1)
		return append(bytes.Join(all[:most-1], nil), fmt.Appendf(nil, "… %d more lines\n", cut)...)
	}
	return text
}

// repeating is how a command is repeated.
type repeating struct {
	on     bool
	every  interval
	during lifetime
}

// watchable gives a command that shows something --watch. Such a command writes to c.Stdout
// and c.Stderr alone.
func (c *command) watchable(cmd *cobra.Command) *cobra.Command {
	r := repeating{every: interval{lifetime(2 * time.Second)}}
	cmd.Flags().BoolVarP(&r.on, "watch", "w", false, "show it again and again: in place on a terminal, else one after the other")
	cmd.Flags().Var(&r.every, "every", "with --watch: `time` between two looks")
	cmd.Flags().Var(&r.during, "for", "with --watch: `time` after which it ends (default never)")
	look := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if r.on {
			return c.repeat(cmd, r, func() error { return look(cmd, args) })
		}
		for _, name := range []string{"every", "for"} {
			if cmd.Flags().Changed(name) {
				return fmt.Errorf("--%s is for --watch", name)
			}
		}
		return look(cmd, args)
	}
	return cmd
}

// repeat looks until time is up or the command is interrupted, and ends as the last look did.
// What goes wrong at the first look is the end; later it may be an API server that is away.
func (c *command) repeat(cmd *cobra.Command, r repeating, look func() error) error {
	out, errs := c.Stdout, c.Stderr
	defer func() { c.Stdout, c.Stderr, c.still = out, errs, false }()
	c.still = true
	ctx, stop := context.WithCancel(cmd.Context())
	defer stop()
	if r.during > 0 {
		ctx, stop = context.WithTimeout(ctx, time.Duration(r.during))
		defer stop()
	}
	cmd.SetContext(ctx)
	s := screenOf(out)
	var last error
	for first := true; ; first = false {
		var said bytes.Buffer
		text := sheet{width: widthOf(out)}
		c.Stdout, c.Stderr = &text, &said
		if s.height != nil {
			c.twice = nil // the screen shows it no more
		}
		err := look()
		if ctx.Err() != nil && !first {
			return last // this look was cut short
		}
		var ended *ended
		if err != nil && !errors.As(err, &ended) {
			if first || ctx.Err() != nil {
				return err
			}
			fmt.Fprintf(&said, "culvert: %s\n", printable(err.Error()))
		}
		last = err
		if s.height != nil { // both on one screen
			text.Write(said.Bytes())
		} else if _, err := errs.Write(said.Bytes()); err != nil {
			return err
		}
		if err := s.show(c.between(cmd), text.Bytes()); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(time.Duration(r.every.lifetime)):
		}
	}
}

// between stands between two looks that are shown one after the other.
func (c *command) between(cmd *cobra.Command) string {
	if cmd.Flags().Lookup("output").Value.String() == "json" {
		return ""
	}
	return "\n" + stamp(c.Now()) + "\n"
}
