// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"errors"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// streamer is what an Issuer may be besides: one that makes the keys itself, and replaces
// SVIDs when it likes, as SPIRE. It is sent no CSR and no lifetime. Its Issue gives the SVID
// that it has now, with its key, which the Store may overwrite.
type streamer interface {
	// Stream calls replaced with each identity for which it has another SVID than before,
	// until ctx ends.
	Stream(ctx context.Context, replaced func(spiffeid.ID))
	// Forget says that nobody holds an identity any more.
	Forget(id spiffeid.ID)
}

// Streamer is an Issuer that makes the keys itself, with all that a node needs of one. Run
// finds by the value what an Issuer is besides: whoever writes one asserts that it is this.
type Streamer interface {
	Issuer
	checker
	Follower
	streamer
}

// errStreams answers Renew.
var errStreams = errors.New("its issuer replaces SVIDs when it likes, and cannot be asked to")

// errSame says that a streamer has nothing younger than what is in force.
var errSame = errors.New("the issuer has not replaced the SVID yet")

// replaced has the SVID of id fetched now: its issuer has another.
func (s *Store) replaced(id spiffeid.ID) {
	s.mu.Lock()
	if e := s.entries[id]; e != nil {
		e.replaced = e.wave != nil
		e.due = time.Now()
	}
	s.mu.Unlock()
	s.poke()
}

// unchanged reports whether an issuer gave what is in force, while that is as it should be:
// then nothing happened. Past three quarters of its life that is a failure. s.mu is held.
func (s *Store) unchanged(o *outcome, now time.Time) bool {
	e := o.e
	if o.err != nil || e.current == nil || string(e.current.leaf) != string(o.fresh.leaf) {
		return false
	}
	o.key.forget()
	if e.state(now) != Valid {
		o.fresh, o.err = nil, errSame
		return false
	}
	e.err, e.failures = nil, 0
	e.due = e.current.issued.Add(fraction(e.current.lifetime(), overdueAt))
	if soonest := now.Add(minRenewal); e.due.Before(soonest) {
		e.due = soonest
	}
	e.askReplaced(now)
	return true
}

// askReplaced has the next attempt be at once if the last one may have missed an SVID.
func (e *entry) askReplaced(now time.Time) {
	if e.replaced {
		e.replaced, e.due = false, now
	}
}

// unsubscribe tells a streamer that id was dropped: by its last release, and when an attempt
// ends that was under way then. If a pod came back meanwhile, the stream is opened again.
func (s *Store) unsubscribe(id spiffeid.ID) {
	by, ok := s.cfg.Issuer.(streamer)
	if !ok {
		return
	}
	by.Forget(id)
	s.replaced(id)
}
