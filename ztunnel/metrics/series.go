// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Each flow has five series or more. A pod of this node has its own share, so
// that one which talks to everybody takes nothing from the others.
const (
	maxFlows   = 4096
	maxOfLocal = 512
	// maxLocated is up to which a pod's peers of one workload are told apart by region and
	// zone: those take no room that other workloads need.
	maxLocated = maxOfLocal / 2

	keepFlows  = 10 * time.Minute // after the last connection and pod
	sweepEvery = time.Minute
)

// other is the value of labels for which there is no more room.
const other = "other"

var (
	otherPeer    = Peer{Workload: other, Canonical: other, Revision: other, Namespace: other, Principal: other, App: other, Version: other, Cluster: other}
	otherService = Service{other, other, other}
)

// Workload names the pods that count under the same labels: a Peer's.
type Workload struct{ Namespace, Workload string }

// Known says which workloads have pods, anywhere. Series of others are dropped
// some time later. f is asked about once a minute, at a scrape, with no lock
// held. Call it before the first scrape; by default none has.
func (m *Metrics) Known(f func() map[Workload]bool) { m.traffic.pods = f }

// series are the label children of one Flow, resolved once.
type series struct {
	flow                           Flow
	opened, closed, received, sent prometheus.Counter
	failures                       map[string]failure // by response_flags, beside noFlags

	open   int       // connections
	needed time.Time // when a connection or its pods were last seen
}

// failure are the label children of a Flow's connections that failed in one way.
type failure struct{ closed, failed prometheus.Counter }

// failure is resolved once, as a peer can have connections fail by the thousand. drop
// goes by what it remembers.
func (t *traffic) failure(s *series, flags string) failure {
	f, ok := s.failures[flags]
	if !ok {
		values := s.flow.labels(flags)
		f = failure{t.closed.WithLabelValues(values...), t.failed.WithLabelValues(values...)}
		if s.failures == nil {
			s.failures = make(map[string]failure)
		}
		s.failures[flags] = f
	}
	return f
}

// local is the end that is a pod of this node.
func (f *Flow) local() *Peer {
	if f.Reporter == Source {
		return &f.Source
	}
	return &f.Destination
}

func (f *Flow) peer() *Peer {
	if f.Reporter == Source {
		return &f.Destination
	}
	return &f.Source
}

// of returns the series of flow, or those that stand for what there is no room
// for: first of that flow wherever its peer is, then of its local pod with all
// others, then of all pods. t.mu is held.
func (t *traffic) of(flow *Flow) *series {
	if s, ok := t.series[*flow]; ok {
		return s
	}
	if peer := flow.peer(); peer.located() && (t.locals[*flow.local()] >= maxLocated || len(t.series) >= maxFlows/2) {
		anywhere := *flow
		anywhere.peer().Region, anywhere.peer().Zone = other, other
		return t.at(&anywhere)
	}
	return t.at(flow)
}

func (p *Peer) located() bool { return p.Region != "" || p.Zone != "" }

// at is of, with no regard to where peers are.
func (t *traffic) at(flow *Flow) *series {
	if s, ok := t.series[*flow]; ok {
		return s
	}
	room := len(t.series) < maxFlows
	if room && t.locals[*flow.local()] < maxOfLocal {
		return t.add(flow)
	}
	t.overflow.Inc()
	rest := Flow{Reporter: flow.Reporter, Source: otherPeer, Destination: otherPeer, Service: otherService, MutualTLS: flow.MutualTLS}
	if room {
		*rest.local() = *flow.local()
	}
	if s, ok := t.series[rest]; ok {
		return s
	}
	return t.add(&rest)
}

func (t *traffic) add(flow *Flow) *series {
	values := flow.labels(noFlags)
	s := &series{
		flow:     *flow,
		opened:   t.opened.WithLabelValues(values...),
		closed:   t.closed.WithLabelValues(values...),
		received: t.received.WithLabelValues(values...),
		sent:     t.sent.WithLabelValues(values...),
		needed:   time.Now(),
	}
	t.series[*flow] = s
	t.locals[*flow.local()]++
	return s
}

// sweep drops the series that nothing has needed for a while.
func (t *traffic) sweep() {
	now := time.Now()
	t.mu.Lock()
	due := now.Sub(t.swept) >= sweepEvery
	if due {
		t.swept = now
	}
	t.mu.Unlock()
	if !due {
		return
	}
	pods := t.pods()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.series {
		switch {
		case s.open > 0 || exists(pods, s.flow.Source) && exists(pods, s.flow.Destination):
			s.needed = now
		case now.Sub(s.needed) >= keepFlows:
			t.drop(s)
		}
	}
}

// exists is true of an end of which nothing is known: there the other decides.
func exists(pods map[Workload]bool, p Peer) bool {
	return p == Peer{} || pods[Workload{p.Namespace, p.Workload}]
}

func (t *traffic) drop(s *series) {
	delete(t.series, s.flow)
	local := *s.flow.local()
	if t.locals[local]--; t.locals[local] == 0 {
		delete(t.locals, local)
	}
	values := s.flow.labels(noFlags)
	for _, vec := range []*prometheus.CounterVec{t.opened, t.closed, t.received, t.sent} {
		vec.DeleteLabelValues(values...)
	}
	for flags := range s.failures {
		values := s.flow.labels(flags)
		t.closed.DeleteLabelValues(values...)
		t.failed.DeleteLabelValues(values...)
	}
}
