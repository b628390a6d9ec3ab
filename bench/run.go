// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/bench/host"
	"github.com/culvert-mesh/culvert/bench/load"
	"github.com/culvert-mesh/culvert/bench/proc"
)

// stage is one cell of a row in all columns: a batch, whose repetitions lie
// close together in time.
type stage struct {
	row          row
	cell         cell
	calibrations []calibration
	samples      map[string]map[string][]float64 // by metric and column; NaN: none in that repetition
}

func bench(ctx context.Context, opts options) (err error) {
	w, err := newWorld(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	m := &measurement{world: w, repetitions: opts.repetitions, duration: opts.duration, latency: make(map[string][]float64)}
	stolen, total := proc.Stolen()
	if err := m.run(ctx); err != nil && (ctx.Err() == nil || len(m.stages) == 0) {
		return err
	} else if err != nil {
		w.note("interrupted: %v", err)
	}
	if s, t := proc.Stolen(); float64(s-stolen) > 0.02*float64(t-total) {
		w.note("the host took %.1f %% of the CPUs meanwhile", 100*float64(s-stolen)/float64(t-total))
	}
	r := newReport(m, host.Describe(context.WithoutCancel(ctx)))
	fmt.Print(r.markdown())
	if opts.results == "" {
		return r.complete()
	}
	return r.write(m.destination())
}

func (m *measurement) run(ctx context.Context) error {
	fmt.Fprintf(os.Stderr, "bench: %d columns, about %.0f min\n", len(m.peers), m.opts.planned(m.peers).Minutes())
	for _, r := range m.opts.chosen() {
		for _, c := range r.cells {
			if !r.measured(c, m.peers) {
				continue
			}
			begin := time.Now()
			s, err := m.stage(ctx, r, c)
			if err != nil {
				return fmt.Errorf("row %s, %s: %w", r.name, c.text(), err)
			}
			m.stages = append(m.stages, s)
			fmt.Fprintf(os.Stderr, "bench: row %s, %s: %.0f s\n", r.name, c.text(), time.Since(begin).Seconds())
		}
	}
	return nil
}

// stage has the columns take turns, each time with another one first.
func (m *measurement) stage(ctx context.Context, r row, c cell) (*stage, error) {
	if r.short {
		whole := m.duration
		defer func() { m.duration = whole }()
		m.duration /= 2
	}
	s := &stage{row: r, cell: c, samples: make(map[string]map[string][]float64)}
	times := m.repetitions
	if r.repeat > 0 {
		times = min(times, r.repeat)
	} else if !m.opts.cold {
		m.warmUp(ctx, r, c)
	}
	for n := range times {
		if n%2 == 0 {
			cal, err := m.calibrate(ctx)
			switch {
			case ctx.Err() != nil:
				return nil, context.Cause(ctx)
			case err != nil: // the machine has no time for it
				m.note("row %s, %s: a calibration failed: %v", r.name, c.text(), err)
			default:
				s.calibrations = append(s.calibrations, cal)
			}
		}
		for i := range m.peers {
			p := m.peers[(i+n)%len(m.peers)]
			if !r.in(p, c) {
				continue
			}
			values, err := r.measure(ctx, m, p, c)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil && !errors.Is(err, errNotHere) {
				m.note("row %s, %s, %s: a repetition is lost: %v", r.name, c.text(), p.name, err)
			}
			s.keep(p.name, n, values)
		}
	}
	return s, m.releaseAll(ctx)
}

// warmUp opens tunnels and fills caches: none of it counts.
func (m *measurement) warmUp(ctx context.Context, r row, c cell) {
	short := *m
	short.duration = min(m.duration, 100*time.Millisecond)
	short.latency = make(map[string][]float64)
	for _, p := range m.peers {
		if r.in(p, c) {
			_, _ = r.measure(ctx, &short, p, c) // what fails will fail again
		}
	}
}

// keep puts values into repetition n.
func (s *stage) keep(peer string, n int, values readings) {
	for name, value := range values {
		if s.samples[name] == nil {
			s.samples[name] = make(map[string][]float64)
		}
		list := s.samples[name][peer]
		for len(list) < n {
			list = append(list, math.NaN())
		}
		s.samples[name][peer] = append(list, value)
	}
}

func (m *measurement) releaseAll(ctx context.Context) error {
	_, err := m.outside.Do(ctx, load.Order{Kind: load.Release})
	for _, p := range m.peers {
		err = errors.Join(err, p.release(ctx))
	}
	return err
}
