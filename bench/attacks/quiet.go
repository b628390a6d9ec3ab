// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/bench/host"
)

// quiet is what a quiet pod heard of every noise, by both builds.
type quiet struct {
	before   string
	duration time.Duration
	rounds   int
	host     host.Host
	old, now [][]heard
}

func (q quiet) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "Linux %s, %d × %s, %s, commit %s,\n%s, load %s; median (quartiles) of %d × %v.\n\n", q.host.Kernel, q.host.CPUs, q.host.CPU,
		q.host.Go, q.host.Commit, q.host.Time, q.host.Load, q.rounds, q.duration)
	b.WriteString("| noise | a second | | alone, ms | beside it, ms | × |")
	if q.old != nil {
		fmt.Fprintf(&b, " alone, %s | beside it, %s | × |", q.before, q.before)
	}
	b.WriteString("\n|---|---|---|---|---|---|" + strings.Repeat("---|", 3*min(len(q.old), 1)) + "\n")
	for i, n := range noises {
		q.line(&b, n.name, lastOf(q.now[i]).did, "echo", i, func(r reading) outcome { return r.echo })
		q.line(&b, "", "", "new connection", i, func(r reading) outcome { return r.open })
	}
	return b.String()
}

func lastOf(all []heard) (h heard) {
	if len(all) > 0 {
		h = all[len(all)-1]
	}
	return h
}

func (q quiet) line(b *strings.Builder, name, did, what string, i int, field func(reading) outcome) {
	fmt.Fprintf(b, "| %s | %s | %s |", name, did, what)
	builds := [][][]heard{q.now}
	if q.old != nil {
		builds = append(builds, q.old)
	}
	for _, build := range builds {
		for _, f := range []func(heard) outcome{
			func(h heard) outcome { return field(h.alone) },
			func(h heard) outcome { return field(h.beside) },
			func(h heard) outcome { return ratio(field(h.beside), field(h.alone)) },
		} {
			v, failed := quarters(build[i], f)
			fmt.Fprintf(b, " %s (%s … %s)", number(v[1]), number(v[0]), number(v[2]))
			if failed > 0 {
				fmt.Fprintf(b, ", %d failed", failed)
			}
			b.WriteString(" |")
		}
	}
	b.WriteString("\n")
}

func ratio(a, b outcome) outcome {
	switch {
	case a.err != nil:
		return a
	case b.err != nil:
		return b
	}
	return outcome{ms: a.ms / b.ms}
}

// listenAll measures both builds.
func listenAll(ctx context.Context, q quiet, old string) (quiet, error) {
	var err error
	if old != "" {
		if q.old, err = listen(ctx, old, q.duration, q.rounds); err != nil {
			return q, err
		}
	}
	q.now, err = listen(ctx, "", q.duration, q.rounds)
	q.host = host.Describe(ctx)
	return q, err
}
