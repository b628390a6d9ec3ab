// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	maxInFlight = 8                // requests to the issuer at a time, each for a wave
	maxRenewals = 6                // of them; the rest is for connections that wait
	maxAttempt  = 10 * time.Second // of one request to the issuer

	clockCheck = 10 * time.Second
	clockJump  = 30 * time.Second
)

// Run fetches and renews SVIDs, and follows the trust bundle and the deny set, until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	s.restore()
	s.restoreDenials()
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()
	if ca, ok := s.cfg.Issuer.(checker); ok {
		attempts.Go(func() { s.watch(ctx, ca) })
	}
	if ca, ok := s.cfg.Issuer.(Follower); ok {
		attempts.Go(func() { s.follow(ctx, ca) })
	}
	if by, ok := s.cfg.Issuer.(streamer); ok {
		attempts.Go(func() { by.Stream(ctx, s.replaced) })
	}
	if ca, ok := s.cfg.Issuer.(denier); ok {
		for stream := range denyStreams {
			attempts.Go(func() { s.followDenials(ctx, ca, stream) })
		}
	}
	if s.cfg.RootFile != "" {
		attempts.Go(func() { s.pollRoots(ctx) })
	}

	timer := time.NewTimer(0)
	defer timer.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C:
		}
		now := time.Now()
		// Wall clock against monotonic: the machine slept, or the clock was set.
		if jump := now.Round(0).Sub(last.Round(0)) - now.Sub(last); jump.Abs() > clockJump {
			s.clockSet(now, jump)
		}
		last = now
		s.federateAgain(now)
		timer.Reset(s.start(ctx, &attempts))
	}
}

// clockSet renews everything, and has open tunnels be asked again: by the clock of now a
// denial that had ended may be in force.
func (s *Store) clockSet(now time.Time, jump time.Duration) {
	s.renewAll(now, fmt.Sprintf("the clock jumped by %v", jump))
	s.denying.Lock() // not in the midst of a set that is taken
	defer s.denying.Unlock()
	s.cfg.OnDeny()
}

// start starts what is due while there are free slots, and says when to look
// again. An attempt that ends wakes Run, too.
func (s *Store) start(ctx context.Context, attempts *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.bury(now)
	for s.inFlight < maxInFlight {
		w, wait := s.form(now)
		if w == nil {
			return wait
		}
		attempt, stop := context.WithTimeout(ctx, maxAttempt)
		w.stop = stop
		s.inFlight++
		attempts.Go(func() {
			defer stop()
			s.attempt(attempt, w)
			s.poke()
		})
	}
	return clockCheck
}

func (s *Store) log(r report) {
	log := s.cfg.Log.With(logIdentity, r.id.String(), logAgain, r.again, logTook, r.took)
	if r.problem != nil {
		log.Warn("roots of the CA's answer are not trusted", logError, r.problem)
	}
	switch {
	case r.err == nil:
		log.Info("SVID issued", logSerial, r.current.serial(), logUntil, r.current.until)
	case r.current != nil && r.current.overdue(time.Now()):
		log.Error("SVID renewal is overdue", logError, r.err, logUntil, r.current.until)
	default:
		log.Warn("SVID not issued", logError, r.err)
	}
}

// renewAll renews everything within the next seconds.
func (s *Store) renewAll(now time.Time, why string) {
	s.cfg.Log.Warn("renewing all SVIDs", logReason, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		if due := now.Add(rand.N(maxWait)); due.Before(e.due) {
			e.due = due
		}
	}
}
