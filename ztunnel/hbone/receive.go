// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// receiver takes what the peer sends on a stream to the app: at once if the app's
// socket has room, else by way of a queue that a goroutine writes out. The peer's
// window bounds the queue.
type receiver struct {
	mu       sync.Mutex    // a leaf; guards what follows
	state    receiverState // also read without mu
	draining bool          // a goroutine is writing waiting to the app
	app      *net.TCPConn
	raw      syscall.RawConn
	waiting  queue  // bytes that the app did not take yet
	received uint64 // bytes that the app took
}

// receiverState is where a receiver stands. The table in doc.go says which state
// follows which.
type receiverState uint32

const (
	receiverOpen    receiverState = iota // more may come
	receiverEnded                        // the peer sent END_STREAM, and bytes may wait for the app
	receiverTold                         // the app has all bytes, and then gets a FIN
	receiverCut                          // the peer reset the stream, and bytes may wait for the app
	receiverDeaf                         // the app broke off: what comes is dropped, what it sent is still read
	receiverSevered                      // the app was reset, or will be as soon as there is one
)

// is may be called with and without mu.
func (r *receiver) is(s receiverState) bool {
	return atomic.LoadUint32((*uint32)(&r.state)) == uint32(s)
}

// become changes the state; mu is held.
func (r *receiver) become(s receiverState) { atomic.StoreUint32((*uint32)(&r.state), uint32(s)) }

// progress is what a step of a receiver did, and what its stream has to do next.
type progress struct {
	taken  int   // bytes that are done with: the app took them, or they were dropped
	queued int   // bytes by which the queue grew; negative: shrank
	broke  error // the app broke the connection
	tell   bool  // the app has all, and must get a FIN
	part   bool  // the app was written all, and must be reset once its kernel has it
}

// take hands the app what one read of the tunnel brought, and then notes the end
// that came with it: receiverEnded, receiverCut, or receiverOpen for none. It does
// not wait for the app.
func (r *receiver) take(segments [][]byte, end receiverState) (p progress, mustDrain bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch r.state {
	case receiverSevered:
		return p, false
	case receiverDeaf:
		p.taken = length(segments)
		p.part = end == receiverCut // there is no app to wait for
		return p, false
	}
	written := 0
	if r.app != nil && r.waiting.size == 0 {
		written, segments, p.broke = writeNow(r.raw, segments)
		p.taken += written
	}
	if p.broke != nil {
		p.taken += length(segments)
		segments = nil
	}
	for _, b := range segments {
		r.waiting.append(b)
		p.queued += len(b)
	}
	if end != receiverOpen {
		r.become(end)
	}
	return r.advance(p, written)
}

// join gives the receiver its app, which gets what came before. It reports false if
// the receiver is severed.
func (r *receiver) join(app *net.TCPConn, raw syscall.RawConn) (p progress, mustDrain, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == receiverSevered {
		return p, false, false
	}
	r.app, r.raw = app, raw
	r.hurryLocked()
	written := 0
	for r.waiting.size > 0 && p.broke == nil {
		var n int
		if n, _, p.broke = writeNow(raw, [][]byte{r.waiting.front()}); n == 0 {
			break
		}
		r.waiting.discard(n)
		written += n
	}
	p.taken, p.queued = written, -written
	p, mustDrain = r.advance(p, written)
	return p, mustDrain, true
}

// next returns the oldest bytes that wait, for the goroutine that drains. If there
// are none, the goroutine ends, and p says what follows.
func (r *receiver) next() (b []byte, p progress) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != receiverSevered && r.state != receiverDeaf {
		if b = r.waiting.front(); b != nil {
			return b, p
		}
	}
	r.draining = false
	dropped := r.waiting.free()
	p.taken, p.queued = dropped, -dropped
	p, _ = r.advance(p, 0)
	return nil, p
}

// wrote takes n of next's bytes off the queue.
func (r *receiver) wrote(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.waiting.discard(n)
	r.received += uint64(n)
}

// hurry bounds the wait for an app that is to be reset.
func (r *receiver) hurry() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hurryLocked()
}

// hurryLocked is hurry with mu held.
func (r *receiver) hurryLocked() {
	if r.state == receiverCut && r.app != nil {
		r.app.SetWriteDeadline(time.Now().Add(partingPatience))
	}
}

// socket is the app's, or nil.
func (r *receiver) socket() syscall.RawConn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw
}

// advance counts what the app took and finds what follows; mu is held.
func (r *receiver) advance(p progress, written int) (progress, bool) {
	r.received += uint64(written)
	switch {
	case p.broke != nil || r.draining:
	case r.waiting.size > 0:
		r.draining = r.app != nil
		return p, r.draining
	case r.state == receiverCut:
		p.part = true
	case r.state == receiverEnded && r.app != nil:
		r.become(receiverTold)
		p.tell = true
	}
	return p, false
}

// deafen has the receiver drop what waits and what comes. It returns how many bytes
// that was so far: while a goroutine drains, they are that goroutine's to drop.
func (r *receiver) deafen() (dropped int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == receiverSevered {
		return 0
	}
	r.become(receiverDeaf)
	if !r.draining {
		dropped = r.waiting.free()
	}
	return dropped
}

// sever is deafen for good. It also returns the app, if there is one, and whether
// this was the first call.
func (r *receiver) sever() (app *net.TCPConn, raw syscall.RawConn, dropped int, first bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == receiverSevered {
		return nil, nil, 0, false
	}
	r.become(receiverSevered)
	if !r.draining {
		dropped = r.waiting.free()
	}
	return r.app, r.raw, dropped, true
}
