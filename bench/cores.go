// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
)

// noticed is how long a Go program may take to see that it has fewer CPUs: it looks once a
// second.
const noticed = 1300 * time.Millisecond

// confinements are the cells of the row cores. A machine measures those that it has the
// CPUs for.
func confinements() (cells []cell) {
	for _, n := range []int{1, 2, 4, 8, 16} {
		cells = append(cells, cell{streams: 8, direction: forward, cpus: n}, cell{streams: 64, size: 64, cpus: n})
	}
	return cells
}

// measureCores confines both proxies to the same first CPUs. The load keeps all.
func measureCores(ctx context.Context, m *measurement, p *peer, c cell) (r readings, err error) {
	if len(p.proxies) == 0 {
		return nil, errNotHere
	}
	release, err := proc.Confine(c.cpus, p.family()...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, release()) }()
	select {
	case <-time.After(noticed):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	o := load.Order{Kind: load.Open, To: p.to, Streams: c.streams, Size: c.size, Duration: m.duration}
	if c.direction != "" {
		o.Kind = load.Bulk
	}
	a, used, err := p.spend(ctx, p.client, o)
	if err != nil {
		return nil, err
	}
	if o.Kind == load.Bulk {
		return readings{mCoresBulk: float64(a.Bytes) * 8 / 1e9 / a.Elapsed.Seconds(), mCoresCPU: used.Seconds() / float64(a.Bytes) * 1e9}, nil
	}
	return readings{mCoresOpen: perSecond(a), mCoresOpenCPU: micro(float64(used)) / float64(a.Count)}, nil
}

// writeScaling says for each column what more CPUs gave.
func (r *report) writeScaling(b *strings.Builder) {
	begun := false
	for _, metric := range []string{mCoresBulk, mCoresOpen} {
		cells, peers := r.cellsOf(metric)
		slices.SortFunc(cells, func(a, b cell) int { return a.cpus - b.cpus })
		for _, p := range peers {
			for i := 1; i < len(cells); i++ {
				few, many := r.median(metric, p, cells[i-1]), r.median(metric, p, cells[i])
				if !(few > 0 && many > 0) {
					continue
				}
				if !begun {
					b.WriteString("\n| both proxies on more CPUs | from | to | gives |\n|---|---|---|---|\n")
					begun = true
				}
				fmt.Fprintf(b, "| %s, %s | %d | %d | × %s |\n", p, metric, cells[i-1].cpus, cells[i].cpus, number(many/few))
			}
		}
	}
}
