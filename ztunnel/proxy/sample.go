// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// samples decides which failures of a pod's connections get an access record. A
// peer that fails without end would else fill the log and cost the time of its
// lines. The next record of the same peer and reason says how many have none; if
// none follows, a line of its own does. Peers without end have a bound together, for
// each pod and for all; what is beyond it counts as of no peer. Metrics count all.
// What carried bytes has its record always.
type samples struct {
	mu   sync.Mutex // guards what follows; before a recordLimit's
	left rate.Left  // of recordRateOfPod
	runs map[kind]*run
	pod  *workload.Workload // whose they are; nil: not known
}

// recordLimit bounds the sampled records of all pods. The nil one does not.
type recordLimit struct {
	mu   sync.Mutex // a leaf
	left rate.Left
}

func (l *recordLimit) spend() bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.left.Spend(recordRateOfAll)
}

// kind is the failures that are sampled together.
type kind struct {
	direction direction
	peer      netip.Addr // the far end; zero: one of too many
	word      Word
}

// run is the failures of a kind, one after the other.
type run struct {
	left    rate.Left
	omitted uint64 // since the last record
	last    time.Time
}

var (
	recordRate      = rate.Limit{PerSecond: 20, Burst: 500} // of a kind
	recordRateOfPod = rate.Limit{PerSecond: 100, Burst: 2000}
	recordRateOfAll = rate.Limit{PerSecond: 500, Burst: 10000}
)

const (
	kindsMost = 1024             // of one pod
	tellAfter = 10 * time.Second // how long omitted failures wait for a record that tells their number
)

// kindOf is the kind of a record, false if it has to be written: the connection
// carried bytes, or was open until something else than its peer ended it.
func (r *record) kindOf(e *outcome) (kind, bool) {
	switch {
	case e.err == nil, e.sent+e.received > 0, e.word == PolicyChanged, e.word == Expired, e.word == Drained:
		return kind{}, false
	}
	peer := r.src.addr
	if r.direction == outbound {
		peer = r.dst.addr
	}
	return kind{r.direction, peer.Addr(), e.word}, true
}

// take reports whether a failure gets a record, and how many before it got none.
func (s *samples) take(k kind, all *recordLimit, log *slog.Logger) (omitted uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k, r := s.run(k)
	r.last = time.Now()
	within := r.left.Spend(recordRate)
	if within && s.spend(all) {
		omitted, r.omitted = r.omitted, 0
		return omitted, true
	}
	if within { // too many peers fail
		k, r = s.run(k.ofNobody())
	}
	s.omit(k, r, 1, all, log)
	return 0, false
}

// spend takes a record of what the pod and all pods may have; mu is held.
func (s *samples) spend(all *recordLimit) bool { return s.left.Spend(recordRateOfPod) && all.spend() }

// omit notes failures without a record; mu is held.
func (s *samples) omit(k kind, r *run, n uint64, all *recordLimit, log *slog.Logger) {
	r.last = time.Now()
	if r.omitted += n; r.omitted == n {
		time.AfterFunc(tellAfter, func() { s.tell(k, all, log) })
	}
}

// ofNobody is the kind of those failures whose peers are too many.
func (k kind) ofNobody() kind { return kind{direction: k.direction, word: k.word} }

// run finds or begins a run; mu is held.
func (s *samples) run(k kind) (kind, *run) {
	r := s.runs[k]
	if r == nil && len(s.runs) >= kindsMost && !s.forgetOld() {
		k = k.ofNobody()
		r = s.runs[k]
	}
	if r == nil {
		if s.runs == nil {
			s.runs = make(map[kind]*run)
		}
		r = new(run)
		s.runs[k] = r
	}
	return k, r
}

// forgetOld drops the runs that have a whole burst again, and reports whether
// there were any; mu is held.
func (s *samples) forgetOld() bool {
	before := len(s.runs)
	for k, r := range s.runs {
		if r.omitted == 0 && time.Since(r.last) > tellAfter {
			delete(s.runs, k)
		}
	}
	return len(s.runs) < before
}

// tell logs the number of failures without a record, if no record has. When too many
// peers fail, their numbers are told together.
func (s *samples) tell(k kind, all *recordLimit, log *slog.Logger) {
	omitted := s.untold(k, all, log)
	if omitted == 0 {
		return
	}
	peer := fieldSrcAddr
	if k.direction == outbound {
		peer = fieldDstAddr
	}
	attrs := []any{fieldScope, scopeAccess, fieldDirection, string(k.direction), fieldResult, string(k.word), fieldFlags, Words[k.word], fieldOmitted, omitted}
	if k.peer.IsValid() {
		attrs = append(attrs, peer, k.peer.String())
	}
	log.Warn("connections failed without a record", append(attrs, s.whose(k.direction)...)...)
}

// name says whose failures they are. A pod that nobody knows any more keeps its name.
func (s *samples) name(pod *workload.Workload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if pod != nil {
		s.pod = pod
	}
}

// whose names the pod, as its records do.
func (s *samples) whose(d direction) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.pod == nil:
		return nil
	case d == outbound:
		return []any{fieldSrcWorkload, s.pod.Name, fieldSrcNamespace, s.pod.Namespace}
	}
	return []any{fieldDstWorkload, s.pod.Name, fieldDstNamespace, s.pod.Namespace}
}

func (s *samples) untold(k kind, all *recordLimit, log *slog.Logger) (omitted uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[k]
	if r == nil {
		return 0
	}
	omitted, r.omitted = r.omitted, 0
	if omitted > 0 && k.peer.IsValid() && !s.spend(all) {
		k, r = s.run(k.ofNobody())
		s.omit(k, r, omitted, all, log)
		return 0
	}
	return omitted
}
