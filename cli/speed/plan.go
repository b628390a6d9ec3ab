// SPDX-License-Identifier: Apache-2.0

package speed

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Target is a server, by the way that leads to it.
type Target struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	Base    string `json:"comparedWith,omitempty"` // name of another; default the first
}

// Plan is what to measure.
type Plan struct {
	Targets []Target
	Rows    []Row
	Turns   int           // of each target in each row
	Each    time.Duration // of a turn
	Beside  []string      // URLs of /metrics of programs whose processor time counts, as ztunnel's
	Tell    func(string)  // what is measured now
	// Take measures one turn. default: from here
	Take func(context.Context, Row, Target, time.Duration) (Turn, error)
}

// Turn is what one turn of a target measured: in the row's unit, in microseconds, in seconds
// for a gigabyte or 1,000 operations, in bytes.
type Turn struct{ Value, Half, Most, CPU, Memory float64 }

// Report is what was measured.
type Report struct {
	Targets     []Target  `json:"targets"`
	Turns       int       `json:"turns"`
	SecondsEach float64   `json:"secondsEach"`
	Rows        []Results `json:"rows"`
}

// Results are those of one row, in the order of the targets.
type Results struct {
	Name        string   `json:"name"`
	Kind        string   `json:"kind"`
	Connections int      `json:"connections"`
	Unit        string   `json:"unit"`
	Results     []Result `json:"results"`
}

// Result is of one target.
type Result struct {
	Target string    `json:"target"`
	Values []float64 `json:"values"` // of the turns, in their order
	Median float64   `json:"median"`
	Lower  float64   `json:"lowerQuartile"`
	Upper  float64   `json:"upperQuartile"`
	Half   float64   `json:"latencyHalfMicroseconds,omitzero"` // medians of the turns'
	Most   float64   `json:"latency99Microseconds,omitzero"`
	// CPU is seconds of the programs beside, for a gigabyte or for 1,000 operations.
	CPU     float64 `json:"cpuSeconds,omitzero"`
	Memory  float64 `json:"memoryBytes,omitzero"` // that they had at most
	Problem string  `json:"problem,omitempty"`
}

// Failed reports whether something could not be measured.
func (r *Report) Failed() bool { return len(r.Problems()) > 0 }

// Problems are what could not be measured, and why.
func (r *Report) Problems() (all []string) {
	for _, row := range r.Rows {
		for _, result := range row.Results {
			if result.Problem != "" {
				all = append(all, row.Name+", "+result.Target+": "+result.Problem)
			}
		}
	}
	return all
}

// Takes is how long the plan takes.
func (p Plan) Takes() time.Duration {
	return p.Each * time.Duration(p.Turns*len(p.Targets)*len(p.Rows))
}

// Run measures. A target that cannot be reached at all is an error; one that fails in
// between is told in its result. When ctx ends, what was measured so far is returned, too.
func (p Plan) Run(ctx context.Context) (*Report, error) {
	if p.Take != nil {
		return p.run(ctx)
	}
	for _, target := range p.Targets {
		reach, cancel := context.WithTimeout(ctx, patience)
		conn, err := dial(reach, target.Address, modeRequest)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("target %s: %w", target.Name, err)
		}
		conn.Close()
	}
	for _, url := range p.Beside {
		if _, err := costOf(ctx, url); err != nil {
			return nil, err
		}
	}
	p.Take = p.turn
	return p.run(ctx)
}

func (p Plan) run(ctx context.Context) (*Report, error) {
	report := &Report{Targets: p.Targets, Turns: p.Turns, SecondsEach: p.Each.Seconds()}
	left := p.Takes()
	for _, row := range p.Rows {
		turns := make([][]Turn, len(p.Targets))
		problems := make([]error, len(p.Targets))
		for turn := range p.Turns {
			for i := range p.Targets {
				at := (i + turn) % len(p.Targets) // whoever comes first differs
				p.Tell(fmt.Sprintf("%s: %s, turn %d of %d; %v left", row.Name(), p.Targets[at].Name, turn+1, p.Turns, left.Round(time.Second)))
				left -= p.Each
				if problems[at] != nil {
					continue
				}
				taken, err := p.Take(ctx, row, p.Targets[at], p.Each)
				if ctx.Err() != nil {
					return report, context.Cause(ctx)
				}
				if problems[at] = err; err == nil {
					turns[at] = append(turns[at], taken)
				}
			}
		}
		results := Results{Name: row.Name(), Kind: row.Kind, Connections: row.Connections, Unit: row.Unit()}
		for i, target := range p.Targets {
			results.Results = append(results.Results, result(target, turns[i], problems[i]))
		}
		report.Rows = append(report.Rows, results)
	}
	return report, nil
}

// turn measures once, and what it cost beside.
func (p Plan) turn(ctx context.Context, row Row, target Target, d time.Duration) (t Turn, err error) {
	before, err := p.costs(ctx)
	if err != nil {
		return t, err
	}
	s, err := row.measure(ctx, target.Address, d)
	if err != nil {
		return t, err
	}
	after, err := p.costs(ctx)
	if err == nil && after.cpu < before.cpu {
		err = errors.New("a program beside was started anew")
	}
	work := float64(s.bytes) / 1e9
	if row.Kind != Bulk {
		work = float64(s.operations) / 1000
	}
	return Turn{
		Value: s.value(row), Half: micro(s.latencies.at(0.5)), Most: micro(s.latencies.at(0.99)),
		CPU: (after.cpu - before.cpu) / work, Memory: after.memory,
	}, err
}

// result is the medians of a target's turns.
func result(target Target, turns []Turn, problem error) Result {
	r := Result{Target: target.Name}
	if problem != nil {
		r.Problem = problem.Error()
		return r
	}
	of := func(value func(Turn) float64) (values []float64) {
		for _, t := range turns {
			values = append(values, value(t))
		}
		return values
	}
	r.Values = of(func(t Turn) float64 { return t.Value })
	r.Median, r.Lower, r.Upper = quantile(r.Values, 0.5), quantile(r.Values, 0.25), quantile(r.Values, 0.75)
	r.Half = quantile(of(func(t Turn) float64 { return t.Half }), 0.5)
	r.Most = quantile(of(func(t Turn) float64 { return t.Most }), 0.5)
	r.CPU = quantile(of(func(t Turn) float64 { return t.CPU }), 0.5)
	r.Memory = quantile(of(func(t Turn) float64 { return t.Memory }), 1)
	return r
}

func micro(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 }

// quantile is between the two values that are next to it, 0 of none.
func quantile(values []float64, part float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	at := part * float64(len(sorted)-1)
	low := int(at)
	if low == len(sorted)-1 {
		return sorted[low]
	}
	return sorted[low] + (at-float64(low))*(sorted[low+1]-sorted[low])
}
