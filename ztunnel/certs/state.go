// SPDX-License-Identifier: Apache-2.0

package certs

import (
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
	Failed   uint64
}

// Stats counts. Held has every State.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	stats := Stats{
		Held:     map[State]int{Valid: 0, Overdue: 0, Expired: 0, Missing: 0},
		InFlight: s.inFlight, Issued: s.issued, Failed: s.failed,
	}
	for _, e := range s.entries {
		stats.Held[e.state(now)]++
	}
	return stats
}

// Expiries returns, by identity, when each SVID ends, or has ended: of one that
// expired an operator must know above all.
func (s *Store) Expiries() map[string]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	expiries := make(map[string]time.Time)
	for id, e := range s.entries {
		if e.current != nil {
			expiries[id.String()] = e.current.until
		}
	}
	return expiries
}
