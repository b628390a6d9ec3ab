// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"errors"
	"maps"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// State is how it stands with an identity's SVID.
type State string

// States. Only the first is as it should be.
const (
	Valid   State = "valid"
	Overdue State = "overdue" // valid, but its renewal has failed for so long that an operator should know
	Expired State = "expired"
	Missing State = "missing" // none came yet
)

func (e *entry) state(now time.Time) State {
	switch {
	case e.current == nil:
		return Missing
	case !e.current.valid(now):
		return Expired
	case e.current.overdue(now):
		return Overdue
	}
	return Valid
}

// Certificate is what is known of an identity's SVID.
type Certificate struct {
	State State     `json:"state"`
	Until time.Time `json:"until,omitzero"`  // of one that came
	Error string    `json:"error,omitempty"` // of the last attempt to get one
}

// Certificate returns that of id. An identity that nobody holds has none.
func (s *Store) Certificate(id spiffeid.ID) Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil {
		return Certificate{State: Missing}
	}
	c := Certificate{State: e.state(time.Now())}
	if e.current != nil {
		c.Until = e.current.until
	}
	if e.err != nil {
		c.Error = e.err.Error()
	}
	return c
}

// Stats is a count of what a Store holds and did.
type Stats struct {
	Held     map[State]int // identities in use
	InFlight int
	Issued   uint64
	Failed   map[Reason]uint64
}

// Stats counts. Held has every State.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	stats := Stats{
		Held:     map[State]int{Valid: 0, Overdue: 0, Expired: 0, Missing: 0},
		InFlight: s.inFlight, Issued: s.issued, Failed: maps.Clone(s.failed),
	}
	for _, e := range s.entries {
		stats.Held[e.state(now)]++
	}
	return stats
}

// Life is how long an identity's SVID lives, and when it is replaced.
type Life struct {
	State    State
	Until    time.Time     // zero: none came yet
	Lifetime time.Duration // as long as it is good for from when it came
	Next     time.Time     // attempt to get another
}

// Lives returns the life of each SVID by identity, those that ended included: of one that
// expired an operator must know above all.
func (s *Store) Lives() map[string]Life {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	lives := make(map[string]Life, len(s.entries))
	for id, e := range s.entries {
		life := Life{State: e.state(now), Next: e.due}
		if e.current != nil {
			life.Until, life.Lifetime = e.current.until, e.current.lifetime()
		}
		lives[id.String()] = life
	}
	return lives
}

// countFailure counts an attempt that failed by why it did; s.mu is held.
func (s *Store) countFailure(err error) {
	reason := Failed
	var known *Problem
	if errors.As(err, &known) {
		reason = known.Reason
	}
	s.failed[reason]++
}
