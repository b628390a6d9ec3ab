// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/identityv1"
)

// batcher is what an Issuer may be besides: one that signs for many identities in one
// request, and answers each by itself.
type batcher interface {
	// IssueAll returns one result for each request, in their sequence.
	IssueAll(ctx context.Context, requests []Request) []Result
}

// Request is one of a batch.
type Request struct {
	ID  spiffeid.ID
	CSR []byte // PEM
	TTL time.Duration
}

// Result is the answer to one Request.
type Result struct {
	Issued Issued
	Err    error
}

// wave is the identities that are asked for in one request. All of them are equally
// urgent, so that none waits for a slow answer about others that matter less.
type wave struct {
	entries []*entry
	wanted  int                // of them, by somebody still; Store.mu guards it
	stop    context.CancelFunc // ends the request
}

// form takes what is due and most urgent into a wave, or says when to look again.
// s.mu is held.
func (s *Store) form(now time.Time) (w *wave, wait time.Duration) {
	due, urgency, wait := s.mostUrgent(now)
	if len(due) == 0 {
		return nil, wait
	}
	if urgency == background && s.inFlight >= maxRenewals {
		return nil, wait // the most urgent that is due is one: all are
	}
	slices.SortFunc(due, inTurn)
	w = &wave{}
	for _, e := range due {
		if len(w.entries) == s.batch || e.alone && len(w.entries) > 0 {
			break // it comes with the next wave
		}
		w.entries = append(w.entries, e)
		e.wave, e.attempted = w, now
		if e.alone {
			break
		}
	}
	w.wanted = len(w.entries)
	return w, 0
}

// unwanted ends a request that was for e alone, or for others that went before;
// s.mu is held.
func (w *wave) unwanted() {
	if w == nil {
		return
	}
	if w.wanted--; w.wanted == 0 {
		w.stop()
	}
}

// outcome is what became of one identity of a wave.
type outcome struct {
	e       *entry
	key     *privateKey
	fresh   *svid
	problem error // of the answer's roots, which does not keep fresh from being used
	issued  Issued
	err     error
}

// ask has the issuer sign for a wave, each with a new key, and checks the answers.
func (s *Store) ask(ctx context.Context, w *wave) []outcome {
	outcomes := make([]outcome, len(w.entries))
	var requests []Request
	var asked []*outcome
	for i, e := range w.entries {
		o := &outcomes[i]
		o.e = e
		csr, err := o.prepare(s.cfg)
		if err != nil {
			o.err = err
			continue
		}
		requests = append(requests, Request{ID: e.id, CSR: csr, TTL: s.cfg.TTL})
		asked = append(asked, o)
	}
	for i, r := range s.issueAll(ctx, requests) {
		asked[i].judge(s, r)
	}
	return outcomes
}

// prepare makes the key and the request of one identity. Issuers that make keys get none.
func (o *outcome) prepare(cfg Config) (csr []byte, err error) {
	if err := cfg.checkID(o.e.id); err != nil {
		return nil, err
	}
	if _, ok := cfg.Issuer.(streamer); ok {
		return nil, nil
	}
	if o.key, err = newPrivateKey(cfg.Keys); err != nil {
		return nil, fmt.Errorf("make key for %v: %v", o.e.id, err)
	}
	if csr, err = o.key.csr(o.e.id); err != nil {
		o.key.forget()
		return nil, fmt.Errorf("make CSR for %v: %v", o.e.id, err)
	}
	return csr, nil
}

// judge makes an SVID of a result, or forgets the key.
func (o *outcome) judge(s *Store, r Result) {
	if r.Err == nil && o.key == nil {
		o.key, r.Err = givenKey(r.Issued.Key)
	}
	if r.Err == nil {
		o.issued = r.Issued
		o.fresh, r.Err = newSVID(o.e.id, o.key, r.Issued, s.with(r.Issued.Roots), s.cfg.ClockSkew, time.Now())
	}
	if r.Err != nil {
		o.key.forget()
		o.err = fmt.Errorf("issue SVID for %v: %w", o.e.id, r.Err)
	}
}

// issueAll asks in one request, if the issuer can take one for many.
func (s *Store) issueAll(ctx context.Context, requests []Request) []Result {
	if len(requests) == 0 {
		return nil
	}
	if many, ok := s.cfg.Issuer.(batcher); ok {
		return many.IssueAll(ctx, requests)
	}
	results := make([]Result, len(requests))
	for i, r := range requests {
		results[i].Issued, results[i].Err = s.cfg.Issuer.Issue(ctx, r.ID, r.CSR, r.TTL)
	}
	return results
}

// batchOf is how many identities a request to the issuer may be for.
func batchOf(issuer Issuer) int {
	if _, ok := issuer.(batcher); ok {
		return identityv1.MaxBatch
	}
	return 1
}

// attempt asks for a wave and puts what came in force.
func (s *Store) attempt(ctx context.Context, w *wave) {
	began := time.Now()
	outcomes := s.ask(ctx, w)
	now := time.Now()
	gaveUp := errors.Is(context.Cause(ctx), context.Canceled)

	s.mu.Lock()
	s.inFlight--
	var told []report
	var gone []spiffeid.ID
	changed := false
	for i := range outcomes {
		o := &outcomes[i]
		o.e.wave = nil
		if s.entries[o.e.id] != o.e || gaveUp {
			o.key.forget() // its last pod went while we asked
			gone = append(gone, o.e.id)
			continue
		}
		if s.unchanged(o, now) {
			continue
		}
		tainted := s.hangsOnTainted(o.e.current)
		rotated := s.settle(o, now)
		if rotated && tainted {
			o.e.former = nil // all tunnels are left
		}
		changed = s.rebuild(now) || changed
		told = append(told, report{
			id: o.e.id, current: o.e.current, again: o.e.due, err: o.err, problem: o.problem, rotated: rotated, tainted: tainted, took: now.Sub(began),
		})
	}
	s.mu.Unlock()

	for _, id := range gone {
		s.unsubscribe(id)
	}
	if changed {
		s.newBundle()
	}
	for _, r := range told {
		s.hear(r.err)
		s.log(r)
		switch {
		case r.rotated && r.tainted:
			s.cfg.OnTainted(r.id)
		case r.rotated:
			s.cfg.OnRotate(r.id)
		}
	}
}

// report is what is told of one identity after an attempt.
type report struct {
	id           spiffeid.ID
	current      *svid
	again        time.Time
	err, problem error
	rotated      bool
	tainted      bool          // by the CA: an authority of the SVID before
	took         time.Duration // of the request
}

// settle puts an outcome in force, and reports whether it replaces an SVID; s.mu is held.
func (s *Store) settle(o *outcome, now time.Time) (rotated bool) {
	e := o.e
	var known *Problem
	if o.err == nil { // by a CA that does not know yet what this node denies
		if o.err = s.deniedOwn(o.fresh); o.err != nil {
			o.fresh.key.forget()
		}
	}
	switch {
	case o.err == nil:
		s.issued++
		o.problem = s.trust.hear(o.issued.Roots, now, s.longestLife())
		rotated = s.install(e, o.fresh, now)
	case errors.As(o.err, &known) && known.Alone && !e.alone:
		e.alone, e.due = true, now // the batch did not wait for it
	default:
		s.countFailure(o.err)
		e.fail(o.err, now)
	}
	e.askReplaced(now)
	close(e.changed)
	e.changed = make(chan struct{})
	return rotated
}

func (e *entry) fail(err error, now time.Time) {
	e.err = err
	e.failures++
	e.due = now.Add(max(e.backoff(now), wish(err)))
}

// wish is how long the issuer wants to be left alone, at most a minute.
func wish(err error) time.Duration {
	var known *Problem
	if !errors.As(err, &known) {
		return 0
	}
	return min(known.After, maxBackoff)
}

// install puts an SVID in force, and reports whether it replaces one; s.mu is held.
func (s *Store) install(e *entry, fresh *svid, now time.Time) (rotated bool) {
	if e.current != nil {
		rotated = true
		e.outgrow(fresh, now)
		e.retired = append(e.retired, retiredKey{e.current.key, now})
	}
	s.share(fresh)
	e.current, e.err, e.failures, e.alone, e.disowned = fresh, nil, 0, false, false
	e.due = s.renewal(e, now)
	if !s.hangsOnTainted(fresh) {
		e.tainted = 0
	} else { // of a replica that still signs by that
		e.tainted++
		e.due = now.Add(e.taintWait())
	}
	e.news.tell()
	return rotated
}
