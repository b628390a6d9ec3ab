// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"sync"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/buffer"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// sender is the sending side of a stream: its app's bytes go into the tunnel when it
// is its turn. writer.mu guards it.
type sender struct {
	next       *Stream    // in the ring
	changed    *sync.Cond // wakes the pump, which made it to wait; nil: it has not waited since it began
	fd         uintptr    // of the app's socket, while the pump is in serve
	state      senderState
	leads      bool       // its pump is asked to lead, for all streams, whatever becomes of its own turn
	reads      buffer.Fit // which of readSizes its next read has
	readShort  bool       // its last read brought less than there was room for
	idleTicks  uint8      // at which sent was sentBefore
	sendWindow int        // what the peer lets us send
	tiny       rate.Left
	readEarly  []byte // of the app, and yet to be sent
	kept       int    // bytes in Memory for the array of readEarly
	readErr    error  // of the app
	broke      error  // the app takes no more; the sender goes on with what the app sent before
	sentBefore uint64 // sent at the last tick, since then
}

// senderState is where a sender stands. The table in doc.go says which state
// follows which. A turn is two of them, as nobody can stop a read under way.
type senderState uint8

const (
	senderIdle     senderState = iota // its pump decides what is next, or there is none yet
	senderWaiting                     // its app has said all for now: the pump, or socket.Wait for it, waits for more and sees it go
	senderQueued                      // in a ring, until a leader takes it
	senderReading                     // a leader reads from the app
	senderDropping                    // a leader still does, for nothing: no more is to be sent
	senderEnded                       // no more is sent
)

// awaitChange waits until something changes for the pump, its only caller; mu is held.
func (w *writer) awaitChange(s *Stream) {
	if s.changed == nil {
		s.changed = sync.NewCond(&w.mu)
	}
	s.changed.Wait()
}

// hasChanged wakes the pump, if it waits; writer.mu is held.
func (s *sender) hasChanged() {
	if s.changed != nil {
		s.changed.Signal()
	}
}

// sends reports that more may come from the app; writer.mu is held.
func (s *sender) sends() bool { return s.state < senderDropping }

// stopSending ends the sending side; mu is held.
func (w *writer) stopSending(s *Stream) {
	switch s.state {
	case senderReading, senderDropping:
		s.state = senderDropping
		return
	case senderQueued:
		w.ringOf(s).drop(s)
	}
	s.state = senderEnded
}

// ring is the streams that wait for their turn.
type ring struct {
	head, tail *Stream
	n          int
}

func (r *ring) push(s *Stream) {
	s.state, s.next = senderQueued, nil
	if r.tail == nil {
		r.head = s
	} else {
		r.tail.next = s
	}
	r.tail = s
	r.n++
}

func (r *ring) pop() *Stream {
	s := r.head
	r.head = s.next
	if r.head == nil {
		r.tail = nil
	}
	s.state, s.next = senderIdle, nil
	r.n--
	return s
}

// drop takes a stream out before its turn.
func (r *ring) drop(s *Stream) {
	for n := r.n; n > 0; n-- {
		if other := r.pop(); other != s {
			r.push(other)
		}
	}
}

// enqueue lets a stream wait for its turn. Those that send little go first:
// they wait for no more than the batch under way. mu is held.
func (w *writer) enqueue(s *Stream) {
	if s.state == senderIdle {
		w.ringOf(s).push(s)
	}
}

func (w *writer) ringOf(s *Stream) *ring {
	if s.reads.Smallest() {
		return &w.small
	}
	return &w.bulk
}

// next takes the stream whose turn it is, nil if there is none; mu is held.
// Half of a batch is enough for the small ones.
func (w *writer) next(b *record.Batch) *Stream {
	r := &w.small
	if r.n == 0 || w.bulk.n > 0 && b.Len() >= record.BatchSize/2 {
		r = &w.bulk
	}
	if r.n == 0 {
		return nil
	}
	return r.pop()
}

// first is the stream that next would take of an empty batch; mu is held.
func (w *writer) first() *Stream {
	if w.small.n > 0 {
		return w.small.head
	}
	return w.bulk.head
}

// wanted is the bytes that the next batch may hold, at least; mu is held.
func (w *writer) wanted() int {
	n := len(w.control) + len(w.answers)
	for _, r := range []*ring{&w.small, &w.bulk} {
		for s := r.head; s != nil && n < record.BatchSize; s = s.next {
			n += h2.FrameHeaderSize + min(s.reads.Size(readSizes), max(s.sendWindow, 0))
		}
	}
	return n
}
