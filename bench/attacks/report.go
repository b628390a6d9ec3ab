// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/bench/host"
)

// report is what both builds' victims felt.
type report struct {
	before   string
	duration time.Duration
	host     host.Host
	old, now []felt
}

// between is the markers that a table stands between in the document.
type between struct{ begin, end string }

var (
	attackMarkers = between{"<!-- attacks: begin -->\n", "<!-- attacks: end -->\n"}
	noiseMarkers  = between{"<!-- noise: begin -->\n", "<!-- noise: end -->\n"}
)

func (r report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d × %s, %s, commit %s,\n%s, load %s; %v for each number.\n\n", r.host.Kernel, r.host.CPUs, r.host.CPU,
		r.host.Go, r.host.Commit, r.host.Time, r.host.Load, r.duration)
	b.WriteString("| attack | | alone | beside it |")
	if r.old != nil {
		fmt.Fprintf(&b, " alone, %s | beside it, %s |", r.before, r.before)
	}
	b.WriteString("\n|---|---|---|---|" + strings.Repeat("---|", 2*min(len(r.old), 1)) + "\n")
	for i, a := range attacks {
		r.line(&b, a.name, "echo", i, func(x reading) string { return x.echo.String() })
		r.line(&b, "", "new connection", i, func(x reading) string { return x.open.String() })
		r.line(&b, "", "memory of ztunnel", i, func(x reading) string { return number(x.memory) + " MB" })
		if !a.lasts {
			r.rate(&b, i)
		}
	}
	return b.String()
}

func (r report) line(b *strings.Builder, name, what string, i int, field func(reading) string) {
	fmt.Fprintf(b, "| %s | %s | %s | %s |", name, what, field(r.now[i].alone), field(r.now[i].beside))
	if r.old != nil {
		fmt.Fprintf(b, " %s | %s |", field(r.old[i].alone), field(r.old[i].beside))
	}
	b.WriteString("\n")
}

// rate says how fast the attack was, whose victims are compared.
func (r report) rate(b *strings.Builder, i int) {
	fmt.Fprintf(b, "|  | of the attack, a second | | %.0f |", r.now[i].rate)
	if r.old != nil {
		fmt.Fprintf(b, " | %.0f |", r.old[i].rate)
	}
	b.WriteString("\n")
}

// String is the p99, or that there is none.
func (o outcome) String() string {
	if o.err != nil {
		return "none: it fails"
	}
	return number(o.ms) + " ms"
}

func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// replaceIn puts a table into a document.
func (m between) replaceIn(path, table string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	head, rest, ok := strings.Cut(string(text), m.begin)
	_, tail, closed := strings.Cut(rest, m.end)
	if !ok || !closed {
		return fmt.Errorf("%s has no markers for the table: %s", path, m.begin)
	}
	return os.WriteFile(path, []byte(head+m.begin+"\n"+table+"\n"+m.end+tail), 0o644)
}
