// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/bench/load"
)

// smoke runs every attack for a moment, all at one site, and checks that each is an
// attack and that the victim lives.
func smoke(ctx context.Context) (err error) {
	s, err := newSite(ctx, "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	for _, a := range attacks {
		err := s.try(ctx, a, 100*time.Millisecond)
		if errors.Is(err, errNothing) { // the machine may have stalled for that moment
			err = s.try(ctx, a, 5*time.Second)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	for _, n := range noises {
		if err := s.hears(ctx, n, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", n.name, err)
		}
	}
	return nil
}

// hears makes a noise for a time, and is an error if it is none or the quiet pod is not
// served.
func (s *site) hears(ctx context.Context, n noise, d time.Duration) error {
	h := s.hear(ctx, n, d)
	err := errors.Join(h.err, h.beside.echo.err, h.beside.open.err)
	if h.did == "" {
		err = errors.Join(err, errNothing)
	}
	return err
}

// try runs an attack for a time, and ends what it left.
func (s *site) try(ctx context.Context, a attack, d time.Duration) error {
	f, err := a.measure(ctx, s, d)
	return errors.Join(err, f.complete(a), s.release(ctx))
}

var errNothing = errors.New("nothing was done")

// complete is an error if something was not measured.
func (f felt) complete(a attack) error {
	if !a.lasts && f.rate == 0 {
		return errors.Join(errNothing, f.err)
	}
	return errors.Join(f.alone.echo.err, f.alone.open.err, f.beside.echo.err, f.beside.open.err)
}

// release ends what an attack left.
func (s *site) release(ctx context.Context) error {
	for _, w := range []*load.Worker{s.outside, s.client, s.server, s.neighbour} {
		if _, err := w.Do(ctx, load.Order{Kind: load.Release}); err != nil {
			return err
		}
	}
	return nil
}
