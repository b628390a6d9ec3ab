// SPDX-License-Identifier: Apache-2.0

// Package events tells whoever listens what happens on the node, as it happens:
// connections that open, close and are refused, policies that change, pods that are
// enrolled, steering that is repaired.
//
// Nobody waits for a listener. Each has a bounded queue; what does not fit is dropped,
// and the listener is told how many. While nobody listens an event costs one atomic load.
package events

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Kind is what happened.
type Kind string

// The kinds.
const (
	Open          Kind = "open"
	Close         Kind = "close"
	Refused       Kind = "refused"
	PolicyChanged Kind = "policy_changed"
	Enrolled      Kind = "enrolled"
	Unenrolled    Kind = "unenrolled"
	Repaired      Kind = "repaired"
	Dropped       Kind = "dropped" // events for this listener
)

// Kinds are those that a listener may ask for.
var Kinds = []Kind{Open, Close, Refused, PolicyChanged, Enrolled, Unenrolled, Repaired}

const (
	queueLength  = 1024
	maxListeners = 8
)

// End is one end of a connection, as far as it is known.
type End struct {
	Address   netip.AddrPort `json:"address,omitzero"`
	Namespace string         `json:"namespace,omitempty"`
	Pod       string         `json:"pod,omitempty"`
	Workload  string         `json:"workload,omitempty"`
	Identity  string         `json:"identity,omitempty"` // proven
}

// Event is one line. What does not concern its kind is empty.
type Event struct {
	Time time.Time `json:"time"`
	Kind Kind      `json:"event"`

	// Of connections, with the names of the access record.
	Direction   string `json:"direction,omitempty"`
	Path        string `json:"path,omitempty"`
	Source      End    `json:"source,omitzero"`
	Destination End    `json:"destination,omitzero"`
	Service     string `json:"service,omitempty"` // NAMESPACE/NAME
	Secured     bool   `json:"secured,omitempty"`
	Plaintext   string `json:"plaintext,omitempty"` // why it is
	Result      string `json:"result,omitempty"`
	Policy      string `json:"policy,omitempty"`
	Error       string `json:"error,omitempty"`
	BytesSent   uint64 `json:"bytesSent,omitempty"`
	BytesRecv   uint64 `json:"bytesRecv,omitempty"`
	Duration    string `json:"duration,omitempty"`

	Pod      string `json:"pod,omitempty"`      // NAMESPACE/NAME that is enrolled or not any more
	Identity string `json:"identity,omitempty"` // of Pod
	What     string `json:"what,omitempty"`     // was repaired
	Count    uint64 `json:"count,omitempty"`    // that were dropped
}

// Stream is what listeners hear. Its zero value is ready; nobody hears nil.
type Stream struct {
	listening atomic.Int32

	mu        sync.Mutex // guards what follows; before a Listener's
	listeners map[*Listener]struct{}
}

// Heard reports whether somebody listens. Whoever has work to do for an event asks first.
func (s *Stream) Heard() bool { return s != nil && s.listening.Load() > 0 }

// Tell gives an event to those who listen for it. It does not block.
func (s *Stream) Tell(e *Event) {
	if !s.Heard() {
		return
	}
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.listeners {
		if l.filter.passes(e) {
			l.put(e)
		}
	}
}

// ErrCrowded says that there are as many listeners as there may be.
var ErrCrowded = errors.New("eight listen already")

// Listener is one reader of the stream.
type Listener struct {
	stream *Stream
	filter Filter
	some   chan struct{} // holds one token while events or drops wait

	mu      sync.Mutex // guards what follows; a leaf
	queue   []Event
	dropped uint64
}

// Listen begins to collect what passes the filter. Close ends it.
func (s *Stream) Listen(f Filter) (*Listener, error) {
	l := &Listener{stream: s, filter: f, some: make(chan struct{}, 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.listeners) >= maxListeners {
		return nil, ErrCrowded
	}
	if s.listeners == nil {
		s.listeners = map[*Listener]struct{}{}
	}
	s.listeners[l] = struct{}{}
	s.listening.Add(1)
	return l, nil
}

// Close has l hear no more.
func (l *Listener) Close() {
	l.stream.mu.Lock()
	defer l.stream.mu.Unlock()
	if _, listens := l.stream.listeners[l]; listens {
		delete(l.stream.listeners, l)
		l.stream.listening.Add(-1)
	}
}

func (l *Listener) put(e *Event) {
	l.mu.Lock()
	if len(l.queue) < queueLength {
		l.queue = append(l.queue, *e)
	} else {
		l.dropped++
	}
	l.mu.Unlock()
	select {
	case l.some <- struct{}{}:
	default:
	}
}

// Next waits for events and returns all that came since, in their order. If some were
// dropped behind them, the last one says how many.
func (l *Listener) Next(ctx context.Context) ([]Event, error) {
	select {
	case <-l.some:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	events := l.queue
	l.queue = nil
	if l.dropped > 0 {
		events = append(events, Event{Time: time.Now(), Kind: Dropped, Count: l.dropped})
		l.dropped = 0
	}
	return events, nil
}
