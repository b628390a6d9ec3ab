// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"
)

// format is a command's -o.
type format struct {
	value string // yaml is json to a command: see inYAML
	kinds []string
	yaml  bool
}

// formats defines -o for a command; the first kind is the default. What prints tables takes
// wide, too, if it has nothing more to show there, and what prints JSON prints YAML.
func formats(cmd *cobra.Command, kinds ...string) *format {
	f := &format{value: kinds[0], kinds: slices.Clone(kinds)}
	if i := slices.Index(f.kinds, "table"); i >= 0 && !slices.Contains(f.kinds, "wide") {
		f.kinds = slices.Insert(f.kinds, i+1, "wide")
	}
	if i := slices.Index(f.kinds, "json"); i >= 0 {
		f.kinds = slices.Insert(f.kinds, i+1, "yaml")
	}
	cmd.Flags().VarP(f, "output", "o", "`format`: "+or(f.kinds))
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(f.kinds, cobra.ShellCompDirectiveNoFileComp)) // it was just defined
	return f
}

func or(words []string) string {
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// namespaceFlag defines --ns, and -A for those who are used to say that they mean all. The
// later of both counts.
func namespaceFlag(flags *pflag.FlagSet, ns *string, what string) {
	flags.StringVar(ns, "ns", "", "`namespace` "+what)
	flags.BoolFuncP("all-namespaces", "A", "of all namespaces, as without --ns", func(text string) error {
		all, err := strconv.ParseBool(text)
		if all {
			*ns = ""
		}
		return err
	})
}

// String, and what follows, is part of pflag.Value.
func (f *format) String() string { return f.value }
func (f *format) Type() string   { return "format" }
func (f *format) Set(s string) error {
	if !slices.Contains(f.kinds, s) {
		return fmt.Errorf("want %s", or(f.kinds))
	}
	if f.value, f.yaml = s, s == "yaml"; f.yaml {
		f.value = "json"
	}
	return nil
}

// inYAML writes each JSON document that is written to it, in one piece, as YAML.
type inYAML struct {
	w    io.Writer
	next bool // it is not the first
}

// Write is part of io.Writer.
func (y *inYAML) Write(document []byte) (int, error) {
	text, err := yaml.JSONToYAML(document)
	if err != nil {
		return 0, fmt.Errorf("as YAML: %w", err)
	}
	if y.next {
		text = append([]byte("---\n"), text...)
	}
	y.next = true
	_, err = y.w.Write(text)
	return len(document), err
}

// printJSON writes what programs read: names of fields stay as they are.
func printJSON(w io.Writer, v any) error { return encode(w, v, "  ") }

func encode(w io.Writer, v any, indent string) error {
	var text bytes.Buffer
	out := json.NewEncoder(&text)
	out.SetIndent("", indent)
	out.SetEscapeHTML(false)
	if err := out.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(escaped(text.Bytes()))
	return err
}

// escaped is a JSON document in which DEL, the C1 control characters and what is no UTF-8
// are escaped. JSON lets them stand in strings, and a terminal may obey them.
func escaped(document []byte) []byte {
	isControl := func(r rune) bool { return r >= 0x7f && r < 0xa0 || r == utf8.RuneError }
	if bytes.IndexFunc(document, isControl) < 0 {
		return document
	}
	var safe bytes.Buffer
	for _, r := range string(document) {
		if isControl(r) {
			fmt.Fprintf(&safe, `\u%04x`, r)
		} else {
			safe.WriteRune(r)
		}
	}
	return safe.Bytes()
}

// table writes rows under a head, in columns. What is empty becomes "-". On a terminal no
// line is longer than that is wide, unless one cell is.
func table(w io.Writer, head string, rows [][]string) error {
	heads := strings.Split(head, "|")
	for _, row := range rows {
		for i := range row {
			if row[i] = printable(row[i]); row[i] == "" {
				row[i] = "-"
			}
		}
	}
	if width := widthOf(w); width > 0 && roomFor(width, heads, rows) < len(heads) {
		return narrow(w, width, heads, rows)
	}
	out := tabwriter.NewWriter(w, 0, 0, gap, ' ', 0)
	fmt.Fprintln(out, strings.Join(heads, "\t"))
	for _, row := range rows {
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
	return out.Flush()
}

// printable is a text on one line. It may come from a program that was taken over:
// no control character reaches the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
}

// stamp is a time for people.
func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

const day = 24 * time.Hour

// long is a duration for people: its two largest units.
func long(d time.Duration) string {
	if d < 0 {
		return "-" + long(-d)
	}
	for _, u := range []struct {
		unit, next time.Duration
		is, then   string
	}{{365 * day, day, "y", "d"}, {day, time.Hour, "d", "h"}, {time.Hour, time.Minute, "h", "m"}, {time.Minute, time.Second, "m", "s"}} {
		if d < u.unit {
			continue
		}
		text := fmt.Sprintf("%d%s", d/u.unit, u.is)
		if rest := d % u.unit / u.next; rest > 0 {
			text += fmt.Sprintf("%d%s", rest, u.then)
		}
		return text
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// plural is a number of things for people.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// count is a number for people.
func count(n int) string { return strconv.Itoa(n) }
