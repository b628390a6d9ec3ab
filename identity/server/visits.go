// SPDX-License-Identifier: Apache-2.0

package server

import (
	"maps"
	"sync"
	"time"
)

const (
	// maxVisits bounds the nodes that are remembered.
	maxVisits = 16384
	// visitFor is how long a node that is silent is remembered.
	visitFor = 24 * time.Hour
)

// visit is the last request of a node that proved itself.
type visit struct {
	address string
	at      time.Time
	result  string // ok, or the word for why it was refused
}

// visits are the last ones of each node.
type visits struct {
	mu     sync.Mutex // guards what follows
	last   map[string]visit
	pruned time.Time
}

func newVisits() *visits { return &visits{last: make(map[string]visit)} }

// note keeps how a node's request ended. Of more nodes than there is room for, those
// that are not known yet are not kept. A process is no node.
func (v *visits) note(d *decision, err error) {
	if !d.attested || d.caller.Node == "" {
		return
	}
	result := "ok"
	if err != nil {
		result = word(err)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	v.pruneLocked(now)
	if _, known := v.last[d.caller.Node]; known || len(v.last) < maxVisits {
		v.last[d.caller.Node] = visit{address: d.from, at: now, result: result}
	}
}

func (v *visits) pruneLocked(now time.Time) {
	if now.Sub(v.pruned) < time.Minute {
		return
	}
	v.pruned = now
	maps.DeleteFunc(v.last, func(_ string, last visit) bool { return now.Sub(last.at) > visitFor })
}

// all returns the last visit of each node.
func (v *visits) all() map[string]visit {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.last)
}
