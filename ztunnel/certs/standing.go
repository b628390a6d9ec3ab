// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

const (
	checkEvery = time.Minute     // while the CA signs; with jitter
	checkAgain = 5 * time.Second // at most while it does not, at least while it does
)

// checker is what an Issuer may be besides: one that can tell whether it would
// sign, on a node where nothing is held yet.
type checker interface {
	Check(ctx context.Context) (Answer, error)
}

// Standing is what the CA thinks of this node.
type Standing struct {
	Ready   bool      `json:"ready"` // it would have signed, once: then its absence is a condition of certificates
	Reason  Reason    `json:"reason"`
	Problem string    `json:"problem,omitempty"` // why it would not sign now
	Since   time.Time `json:"since"`             // of Reason
}

// Standing is what is known now.
func (s *Store) Standing() Standing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.standing
}

// watch asks the CA until ctx ends whether it signs for this node: again and
// again, since a token, a root or the CA's mind may change.
func (s *Store) watch(ctx context.Context, ca checker) {
	for failures := 0; ctx.Err() == nil; {
		attempt, stop := context.WithTimeout(ctx, maxAttempt)
		err := s.check(attempt, ca)
		stop()
		if ctx.Err() != nil {
			return
		}
		s.judge(err)
		if err == nil {
			failures = 0
			s.rest(ctx)
			continue
		}
		failures++
		again := min(firstBackoff*time.Duration(failures), checkAgain)
		wait(ctx, again/2+rand.N(again/2), nil)
	}
}

// check compares what the CA says of this node with what the node was told.
func (s *Store) check(ctx context.Context, ca checker) error {
	answer, err := ca.Check(ctx)
	switch td := s.cfg.TrustDomain.Name(); {
	case err != nil:
		return err
	case answer.TrustDomain != "" && answer.TrustDomain != td:
		return problem(TrustDomain, "the CA signs for the trust domain %q, and this node is of %q", answer.TrustDomain, td)
	case answer.Node != "" && s.cfg.Node != "" && answer.Node != s.cfg.Node:
		return problem(NodeName, "the token is for node %q, and this node is %q", answer.Node, s.cfg.Node)
	}
	return nil
}

// rest lasts until the next check is due, or until an attempt to get an SVID
// contradicts the last one.
func (s *Store) rest(ctx context.Context) {
	wait(ctx, checkAgain, nil)
	wait(ctx, checkEvery/2+rand.N(checkEvery), s.doubts)
}

// wait reports nothing: its caller looks at ctx.
func wait(ctx context.Context, d time.Duration, early <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-early:
	case <-timer.C:
	}
}

// hear takes the end of an attempt to get an SVID for what it says of this
// node. An Issuer that cannot be asked about the node is believed at once. One
// that can is asked, unless it refused for the pod's sake.
func (s *Store) hear(err error) {
	if _, ok := s.cfg.Issuer.(checker); !ok {
		s.judge(err)
		return
	}
	var known *Problem
	if errors.As(err, &known) && (known.Reason == notPlaced || known.Reason == NoEntry) {
		return
	}
	if (err == nil) != (s.Standing().Reason == Signs) {
		signal(s.doubts)
	}
}

// judge puts what was found in force.
func (s *Store) judge(err error) {
	next := Standing{Reason: Signs, Since: time.Now()}
	if err != nil {
		next.Reason, next.Problem = Failed, err.Error()
		var known *Problem
		if errors.As(err, &known) {
			next.Reason = known.Reason
		}
		if where := s.cfg.Remedy(next.Reason); where != "" {
			next.Problem = fmt.Sprintf("%s (%s)", next.Problem, where)
		}
	}
	s.mu.Lock()
	last := s.standing
	next.Ready = last.Ready || err == nil
	if next.Reason == last.Reason {
		next.Since = last.Since
	}
	s.standing = next
	s.mu.Unlock()
	if next.Reason != last.Reason {
		s.tell(next)
	}
}

// tell logs a change. Most of what is wrong does not mend itself; a CA that is
// away or starts does.
func (s *Store) tell(now Standing) {
	level := slog.LevelError
	switch now.Reason {
	case Signs:
		s.cfg.Log.Info("the CA signs for this node", logTrustDomain, s.cfg.TrustDomain.Name())
		return
	case Unreachable, caNotReady, tooManyRequests:
		level = slog.LevelWarn
	}
	s.cfg.Log.Log(context.Background(), level, "the CA does not sign for this node", logReason, string(now.Reason), logError, now.Problem)
}
