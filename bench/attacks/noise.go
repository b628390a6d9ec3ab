// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/culvert-mesh/culvert/bench/load"
)

// noise is what one pod does as if it were alone: no harm is meant.
type noise struct {
	name  string
	parts []part
}

// part is what one worker does of a noise.
type part struct {
	what  string
	by    func(*site) *load.Worker
	order func(*site) load.Order
}

var (
	connects = part{"connections", func(s *site) *load.Worker { return s.noisy }, func(s *site) load.Order {
		return load.Order{Kind: load.Open, To: s.noisyServerAt, Streams: 512, Rate: 10000}
	}}
	bulk = part{"MB", func(s *site) *load.Worker { return s.noisyServer }, func(s *site) load.Order {
		return load.Order{Kind: load.Bulk, To: s.noisyAt, Streams: 64}
	}}
	failures = part{"handshakes", func(s *site) *load.Worker { return s.outside }, func(s *site) load.Order {
		return load.Order{Kind: load.Strangers, To: s.noisyGate, Streams: 64, Rate: 1000}
	}}

	noises = []noise{
		{"10,000 connections a second, 512 at most at once", []part{connects}},
		{"64 bulk streams", []part{bulk}},
		{"1,000 handshakes a second that fail", []part{failures}},
		{"all three", []part{connects, bulk, failures}},
	}
)

// heard is what a quiet pod feels of a noise, and of nothing just before.
type heard struct {
	alone, beside reading
	did           string // what the noise came to, a second
	err           error  // of the noise itself
}

// listen measures every noise in each of some rounds, at one site.
func listen(ctx context.Context, program string, d time.Duration, rounds int) (all [][]heard, err error) {
	s, err := newSite(ctx, program)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	s.read(ctx, d) // tunnels and caches
	all = make([][]heard, len(noises))
	for range rounds {
		for i, n := range noises {
			h := s.hear(ctx, n, d)
			if ctx.Err() != nil {
				return all, context.Cause(ctx)
			}
			fmt.Fprintf(os.Stderr, "attacks: %s: alone %v, beside %v, %s, %v\n", n.name, h.alone, h.beside, h.did, h.err)
			all[i] = append(all[i], h)
		}
	}
	return all, nil
}

// hear measures the quiet pod alone, and while there is a noise.
func (s *site) hear(ctx context.Context, n noise, d time.Duration) (h heard) {
	h.alone = s.read(ctx, d)
	warmUp := min(d, 500*time.Millisecond)
	did := make([]string, len(n.parts))
	var group errgroup.Group
	for i, p := range n.parts {
		o := p.order(s)
		o.Duration = d + d/2 + 3*warmUp
		group.Go(func() error {
			a, err := p.by(s).Do(ctx, o)
			if count := max(float64(a.Count), float64(a.Bytes)/1e6) / a.Elapsed.Seconds(); count > 0 {
				did[i] = fmt.Sprintf("%.0f %s", count, p.what)
			}
			return err
		})
	}
	time.Sleep(warmUp)
	h.beside = s.read(ctx, d)
	h.err = group.Wait()
	h.did = strings.Join(slices.DeleteFunc(did, func(s string) bool { return s == "" }), ", ")
	return h
}

// quarters is the quartiles of what field says of all that was heard of one noise.
func quarters(all []heard, field func(heard) outcome) (q [3]float64, failed int) {
	var list []float64
	for _, h := range all {
		if o := field(h); o.err != nil {
			failed++
		} else {
			list = append(list, o.ms)
		}
	}
	slices.Sort(list)
	for i := range q {
		if len(list) > 0 {
			q[i] = list[(i+1)*(len(list)-1)/4]
		}
	}
	return q, failed
}
