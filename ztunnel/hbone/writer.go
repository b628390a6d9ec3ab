// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// writer is the sending side of a tunnel: what waits to be sent, and who writes it.
//
// One goroutine writes at a time, the leader (lead.go). All others queue: frames with
// queue, the bytes of an app by its pump in serve. If there is a leader, it will write
// what is queued. If not, one of two entrances chooses it:
//
//   - wake has another goroutine lead. It locks nothing but mu, so its caller may hold
//     conn.mu. say is queue and wake.
//   - run has the caller lead. A leader locks conn.mu when an app has finished, when a
//     write fails, and when conn awaits the end of a write. So the caller of run must
//     hold no lock. serve is run for the pump of a stream.
//
// Neither waits for the tunnel's socket.
type writer struct {
	c        *conn
	handling atomic.Bool // the reader is at work or about to begin, and runs the writer when it is done

	mu          sync.Mutex // after conn.mu; guards all below, and each stream's sender
	control     []byte     // frames that precede all DATA, in order
	owed        int        // frames in control that the peer made us send
	small, bulk ring       // streams whose app may have something, and with a window to send it in
	window      int        // what the peer lets us send in the whole tunnel
	spentAt     time.Time  // since when that is nothing; zero: it is something
	peerFrame   int        // the largest frame that the peer takes
	leading     bool       // somebody writes, or was told to
	awaited     bool       // conn.written is called when the write under way is done
	blockedAt   time.Time  // since when that write waits for the socket; zero: it does not
	blockedBy   int        // bytes of it
	blockedIn   int        // bytes of memory that it holds
	hangUp      bool       // the writing side is closed when control is out
	over        bool       // nothing more is written: it is closed, or broke
	answering
	pace
}

// queue adds the frames that the function appends. The caller then runs or wakes the
// writer. The function is called with mu held.
func (w *writer) queue(frames func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = frames(w.control)
}

// queueBlock is queue for a header block.
func (w *writer) queueBlock(id uint32, flags uint8, block []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = h2.AppendBlock(w.control, id, flags, block, w.peerFrame)
}

// say is queue and wake.
func (w *writer) say(frames func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = frames(w.control)
	w.kick()
}

// sayLast is say for the last frames of the tunnel.
func (w *writer) sayLast(frames func([]byte) []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control = frames(w.control)
	w.hangUp = true
	w.kick()
}

// owe counts a frame that the peer made us queue, and wakes the writer.
func (w *writer) owe() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.owed++; w.owed > unflushedLimit {
		return broken(h2.CodeCalm, "more than %d frames to answer", unflushedLimit)
	}
	w.kick()
	return nil
}

// wake has somebody write what is queued.
func (w *writer) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kick()
}

// run writes a batch of what is queued. If there is a leader, or a stream can lead, run
// leaves the writing to that; if the socket is full or the tunnel hangs up, to a goroutine.
func (w *writer) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.leading || w.hangUp || w.nothingToSend() || w.ready() != nil {
		w.kick()
		return
	}
	w.leading = true
	if _, leads := w.writeNextUnlocking(false); leads {
		w.endLeadUnlocking()
	}
}

// serve is run for the pump of a stream: what the app's socket holds is sent. RawConn.Read
// calls it whenever there may be something, and waits for more if it returns false; true
// ends the stream's sending. The leader reads from the socket, be it ourselves or another:
// while it may, we stay, for that keeps the descriptor open.
func (s *Stream) serve(fd uintptr) bool {
	w := &s.c.writer
	w.mu.Lock()
	defer w.mu.Unlock()
	s.fd = fd
	if s.state == senderWaiting {
		s.state = senderIdle
	}
	for {
		switch {
		case s.leads:
			s.leads = false
			w.leadUnlocking(s)
		case s.state == senderReading || s.state == senderDropping:
			w.awaitChange(s)
		case s.state == senderEnded:
			return true
		case s.state == senderWaiting:
			return false
		case s.sendWindow <= 0 || w.over:
			w.awaitChange(s)
		case s.crowded(fd):
			w.mu.Unlock()
			time.Sleep(tinyPause)
			w.mu.Lock()
		case w.leading || w.window <= 0:
			w.enqueue(s)
			w.awaitChange(s)
		default:
			w.enqueue(s)
			w.leading = true
			w.leadUnlocking(s)
		}
	}
}

// stop ends what the stream sends.
func (w *writer) stop(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.answers) > 0 { // whatever is said of the stream follows its answer
		w.answer()
		w.kick()
	}
	w.stopSending(s)
	w.letGoKept(s)
	s.hasChanged()
}

// breakOff forgets what is queued: nothing more is written.
func (w *writer) breakOff() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.control, w.over = nil, true
	w.dropAnswers()
}

// await reports whether somebody writes. If so, conn.written is called when that is done.
func (w *writer) await() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.awaited = w.leading
	return w.leading
}

// done reports that all was written that ever will be.
func (w *writer) done() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over && !w.leading
}

// busy reports that somebody writes.
func (w *writer) busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leading
}

// crammed reports that too many frames wait for a peer that does not read.
func (w *writer) crammed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.control) > controlLimit
}

// blockedSince is since when the write under way waits for the socket; zero: it does not.
func (w *writer) blockedSince() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.blockedAt
}
