// SPDX-License-Identifier: Apache-2.0

package certs

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// renewPause is how long after an attempt for an identity Renew asks for it again.
const renewPause = 5 * time.Second

// Renewed is what became of one identity that Renew was asked for.
type Renewed struct {
	Identity string    `json:"identity"`
	Held     bool      `json:"held"`             // by a pod of this node
	Serial   string    `json:"serial,omitempty"` // of the SVID that came, hexadecimal
	Until    time.Time `json:"until,omitzero"`   // when that ends
	Error    string    `json:"error,omitempty"`  // why none came; empty: one did
}

// Renew has SVIDs replaced now, all held ones if none is named, and returns when for each a
// new one came, the attempt failed, or ctx ended; what was asked for then is not taken back.
// An identity that was asked for within the last seconds is not asked for again. Whatever
// fails, the SVID that there is stays in force.
func (s *Store) Renew(ctx context.Context, ids ...spiffeid.ID) []Renewed {
	s.mu.Lock()
	if len(ids) == 0 {
		for id := range s.entries {
			ids = append(ids, id)
		}
	}
	now := time.Now()
	all := make([]demand, len(ids))
	for i, id := range ids {
		all[i] = s.demand(id, now)
	}
	s.mu.Unlock()
	s.poke()
	s.cfg.Log.Info("SVIDs are renewed on demand", logCount, len(ids))
	out := make([]Renewed, len(ids))
	for i, d := range all {
		fresh, err := s.answered(ctx, d)
		out[i] = Renewed{Identity: ids[i].String(), Held: d.held}
		if err != nil {
			out[i].Error = err.Error()
			continue
		}
		out[i].Serial, out[i].Until = fresh.serial(), fresh.until
	}
	return out
}

// demand is one identity that is asked for, as it was then.
type demand struct {
	e        *entry
	former   *svid
	failures int
	held     bool
	err      error // why it is not asked for
}

// demand brings the next attempt for id forward to now. An attempt that is under way
// counts. s.mu is held.
func (s *Store) demand(id spiffeid.ID, now time.Time) demand {
	e := s.entries[id]
	if e == nil {
		return demand{err: fmt.Errorf("no pod of it is enrolled here")}
	}
	if _, ok := s.cfg.Issuer.(streamer); ok {
		return demand{held: true, err: errStreams}
	}
	if since := now.Sub(e.attempted); e.wave == nil && since < renewPause {
		return demand{held: true, err: fmt.Errorf("it was asked for %v ago: try again in %v", since.Round(time.Millisecond), (renewPause - since).Round(time.Millisecond))}
	}
	e.due = now
	return demand{e: e, held: true, former: e.current, failures: e.failures}
}

// answered waits for what becomes of a demand.
func (s *Store) answered(ctx context.Context, d demand) (*svid, error) {
	if d.err != nil {
		return nil, d.err
	}
	for {
		s.mu.Lock()
		gone, fresh, failures, err, changed := s.entries[d.e.id] != d.e, d.e.current, d.e.failures, d.e.err, d.e.changed
		s.mu.Unlock()
		switch {
		case gone:
			return nil, fmt.Errorf("its last pod is gone")
		case fresh != d.former:
			return fresh, nil
		case failures > d.failures:
			return nil, err
		}
		select {
		case <-changed: // the CA may want to be asked for it alone: then it goes on
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer of the CA yet: %v", context.Cause(ctx))
		}
	}
}
