// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

const (
	maxInFlight = 8
	maxRenewals = 6                // of them; the rest is for connections that wait
	maxAttempt  = 10 * time.Second // of one request to the issuer

	clockCheck = 10 * time.Second
	clockJump  = 30 * time.Second
)

// Run fetches and renews SVIDs until ctx ends.
func (s *Store) Run(ctx context.Context) error {
	if err := s.cfg.Validate(); err != nil {
		return fmt.Errorf("certs: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	var attempts sync.WaitGroup
	defer attempts.Wait()
	defer cancel()
	if ca, ok := s.cfg.Issuer.(checker); ok {
		attempts.Go(func() { s.watch(ctx, ca) })
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
			s.renewAll(now, fmt.Sprintf("the clock jumped by %v", jump))
		}
		last = now
		timer.Reset(s.start(ctx, &attempts))
	}
}

// start starts what is due while there are free slots, and says when to look
// again. An attempt that ends wakes Run, too.
func (s *Store) start(ctx context.Context, attempts *sync.WaitGroup) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for s.inFlight < maxInFlight {
		e, wait := s.next(now)
		if e == nil {
			return wait
		}
		if e.urgency(now) == background && s.inFlight >= maxRenewals {
			return wait // the most urgent that is due is one: all are
		}
		attempt, stop := context.WithTimeout(ctx, maxAttempt)
		e.stop, e.attempted = stop, now
		s.inFlight++
		attempts.Go(func() {
			defer stop()
			s.attempt(attempt, e)
			s.poke()
		})
	}
	return clockCheck
}

// attempt asks for one SVID and puts it in force.
func (s *Store) attempt(ctx context.Context, e *entry) {
	fresh, roots, err := s.issue(ctx, e.id)
	now := time.Now()

	s.mu.Lock()
	s.inFlight--
	e.stop = nil
	if s.entries[e.id] != e || errors.Is(context.Cause(ctx), context.Canceled) {
		s.mu.Unlock()
		if fresh != nil {
			fresh.key.forget() // its last pod went while we asked
		}
		return
	}
	var rotated []spiffeid.ID
	if err != nil {
		s.failed++
		e.fail(err, now)
	} else {
		s.issued++
		rotated = s.install(e, fresh, roots, now)
	}
	close(e.changed)
	e.changed = make(chan struct{})
	current, again := e.current, e.due
	s.mu.Unlock()

	s.hear(err)
	s.log(e.id, current, err, again)
	for _, id := range rotated {
		s.cfg.OnRotate(id)
	}
}

func (s *Store) log(id spiffeid.ID, current *svid, err error, again time.Time) {
	log := s.cfg.Log.With(logIdentity, id.String(), logAgain, again)
	switch {
	case err == nil:
		log.Info("SVID issued", logSerial, current.chain[0].SerialNumber.Text(16), logUntil, current.until)
	case current != nil && current.overdue(time.Now()):
		log.Error("SVID renewal is overdue", logError, err, logUntil, current.until)
	default:
		log.Warn("SVID not issued", logError, err)
	}
}

// issue asks the issuer with a new key and checks the answer.
func (s *Store) issue(ctx context.Context, id spiffeid.ID) (*svid, *bundle, error) {
	if err := s.cfg.checkID(id); err != nil {
		return nil, nil, err
	}
	key, err := newPrivateKey()
	if err != nil {
		return nil, nil, fmt.Errorf("make key for %v: %v", id, err)
	}
	fresh, roots, err := s.certify(ctx, id, key)
	if err != nil {
		key.forget()
		return nil, nil, fmt.Errorf("issue SVID for %v: %w", id, err)
	}
	return fresh, roots, nil
}

func (s *Store) certify(ctx context.Context, id spiffeid.ID, key *privateKey) (*svid, *bundle, error) {
	csr, err := key.csr(id)
	if err != nil {
		return nil, nil, err
	}
	issued, err := s.cfg.Issuer.Issue(ctx, id, csr, s.cfg.TTL)
	if err != nil {
		return nil, nil, err
	}
	roots, err := newBundle(issued.Roots)
	if err != nil {
		return nil, nil, err
	}
	fresh, err := newSVID(id, key, issued.Chain, roots, time.Now())
	return fresh, roots, err
}

func (e *entry) fail(err error, now time.Time) {
	e.err = err
	e.failures++
	e.due = now.Add(e.backoff(now))
}

// install puts an SVID in force and returns whose tunnels are now to be made
// anew: its own, and everybody's if the bundle changed. s.mu is held.
func (s *Store) install(e *entry, fresh *svid, roots *bundle, now time.Time) (rotated []spiffeid.ID) {
	if e.current != nil {
		rotated = append(rotated, e.id)
		e.previous.forget()
		e.previous = e.current.key
	}
	e.current, e.err, e.failures = fresh, nil, 0
	e.due = renewal(fresh)
	if roots.equal(s.bundle) {
		return rotated // the old one has proofs
	}
	if s.bundle != nil {
		rotated = append(rotated, s.rebase(e, roots, now)...)
	}
	s.bundle = roots
	return rotated
}

// rebase measures the other SVIDs by a changed bundle. One that no longer
// chains to it is renewed at once, and kept until then: peers that have not
// heard of the change still know it. s.mu is held.
func (s *Store) rebase(done *entry, roots *bundle, now time.Time) (rotated []spiffeid.ID) {
	for _, e := range s.entries {
		if e == done || e.current == nil {
			continue
		}
		rotated = append(rotated, e.id)
		until, err := ownUntil(e.current.chain, roots, now)
		if err != nil {
			e.due = now
			continue
		}
		moved := *e.current
		moved.until = until
		e.current = &moved
	}
	return rotated
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
