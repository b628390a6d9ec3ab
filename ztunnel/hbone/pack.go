// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"sync"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// readSizes are how much a stream's turn reads from its app: each fills, with
// its frame's header, a buffer of record's.
var readSizes = []int{
	4<<10 - 100,
	record.BatchSize/16 - h2.FrameHeaderSize,
	record.BatchSize/4 - h2.FrameHeaderSize,
	record.BatchSize - h2.FrameHeaderSize,
}

// packUnlocking fills b with the next frames: those in control, and then DATA that it
// reads from the apps whose turn it is. mu is held, and released while reading:
// what came into control meanwhile goes before the DATA of the stream that it
// is about, which may be the next.
func (w *writer) packUnlocking(b *record.Batch) {
	for w.packControl(b) && w.window > 0 && b.Room() > 2*h2.FrameHeaderSize+len(w.answers) {
		s := w.next(b)
		if s == nil {
			return
		}
		switch {
		case s.sendWindow <= 0: // the next WINDOW_UPDATE queues it again
		case s.hasPaused():
			s.state = senderWaiting
		default:
			w.answer()
			w.packControl(b) // all of it: there is room
			w.takeTurnUnlocking(b, s)
		}
		if s.state != senderQueued {
			s.hasChanged()
		}
	}
}

// hasPaused reports that the app's last read brought less than there was room for, and
// that nothing has come since, neither bytes nor an end: most turns of a stream that
// answers small messages are such. To ask costs less than a read that finds nothing.
// writer.mu is held.
func (s *Stream) hasPaused() bool {
	short := s.readShort
	s.readShort = false
	return short && !socket.Readable(s.fd)
}

// packControl reports whether b took all of control. If not, a frame may be
// cut, and nothing can come between; mu is held.
func (w *writer) packControl(b *record.Batch) bool {
	if len(w.control) > 0 {
		w.answer()
	}
	n := b.Append(w.control)
	w.control = w.control[:copy(w.control, w.control[n:])]
	if len(w.control) > 0 {
		return false
	}
	w.owed = 0
	if cap(w.control) > 4<<10 || w.c.quiet.Load() {
		w.control = nil
	}
	return true
}

// turn is what came of one.
type turn int

const (
	turnWithout turn = iota // the app has said all for now
	turnBytes
	turnEnd      // the app finished its side
	turnBroke    // the app broke the connection
	turnUnwanted // no more was to be sent, by then
)

// takeTurnUnlocking reads once from a stream's app into b; mu is held, and released
// while reading. A stream stays queued until its socket is found empty: a read
// that brought less than there was room for may have been the last before a FIN,
// of which the poller has told already and does so only once.
func (w *writer) takeTurnUnlocking(b *record.Batch, s *Stream) {
	l := w.lay(b, min(s.reads.Size(readSizes), s.sendWindow, w.window))
	room := l.room
	w.window -= room // early data must not be sent in the same window
	s.state = senderReading
	w.mu.Unlock()
	n, err := s.readv(l.vector[:l.segments])
	over := n == 0 && err == nil
	broke := over && socket.Broke(s.fd)
	if over { // END_STREAM and what follows from it for the tunnel are one step
		w.c.mu.Lock()
	}
	w.mu.Lock()
	w.window += room
	t, err := s.judge(n, err, broke)
	if t != turnBytes {
		n = 0
	}
	l.trim(n, s.id)
	switch t {
	case turnWithout:
		s.state = senderWaiting
	case turnBytes:
		s.state = senderIdle
		w.took(s, n, room)
	case turnEnd:
		h2.AppendFrame(b.Reserve(h2.FrameHeaderSize)[:0], 0, h2.KindData, h2.FlagEndStream, s.id)
		s.state = senderEnded
	case turnBroke:
		s.state, s.readErr = senderEnded, err
	case turnUnwanted:
		s.state = senderEnded
	}
	if over {
		w.mu.Unlock()
		if t == turnEnd {
			w.c.sentEnd(s)
		}
		w.c.unlock()
		w.mu.Lock()
	}
}

// judge says what came of a turn in which the app's socket gave n bytes or err, and
// seemed broken; writer.mu is held.
func (s *Stream) judge(n int, err error, broke bool) (turn, error) {
	switch {
	case s.state == senderDropping:
		return turnUnwanted, nil
	case err == syscall.EAGAIN:
		return turnWithout, nil
	case err != nil:
		return turnBroke, err
	case n > 0:
		return turnBytes, nil
	case s.broke != nil || broke && !s.toApp.is(receiverTold):
		// Not both sides have sent FIN. The kernel tells a reset once, and
		// whoever writes to the app was told first.
		return turnBroke, syscall.ECONNRESET
	}
	return turnEnd, nil
}

// took accounts for n bytes of a turn that had room for more, and queues the stream
// for another one unless serve has to decide; mu is held.
func (w *writer) took(s *Stream, n, room int) {
	s.sendWindow -= n
	w.spend(n)
	s.sent.Add(uint64(n))
	if len(s.readEarly) == 0 {
		w.letGoKept(s)
	}
	s.reads.Learn(readSizes, n, room)
	s.readShort = n < room
	if n < tinySize {
		s.tiny.Spend(tinyRate)
	}
	if s.sendWindow > 0 && !s.tiny.Spent(tinyRate) {
		w.enqueue(s)
	}
}

// readv reads what the app says: first what was read early and could not be sent
// then; a leader's.
func (s *Stream) readv(vector [][]byte) (n int, err error) {
	if len(s.readEarly) == 0 {
		return socket.ReadInline(s.fd, vector...)
	}
	for _, p := range vector {
		m := copy(p, s.readEarly)
		s.readEarly = s.readEarly[m:]
		n += m
	}
	return n, nil
}

// layout is where in a batch a turn's DATA frames go.
type layout struct {
	batch    *record.Batch
	mark     int // length of the batch before
	frame    int // payload of each frame but the last
	room     int // payload of all
	headers  [record.MaxRecords + 1][]byte
	frames   int
	vector   [4 * record.MaxRecords][]byte
	segments int
}

var layouts = sync.Pool{New: func() any { return new(layout) }}

// lay makes room in b for at most n bytes of DATA, with their frame headers.
func (w *writer) lay(b *record.Batch, n int) *layout {
	l := layouts.Get().(*layout)
	l.batch, l.mark, l.frame = b, b.Len(), w.peerFrame
	for l.room < n && l.frames < len(l.headers) && b.Room() > 2*h2.FrameHeaderSize {
		l.headers[l.frames] = b.Reserve(h2.FrameHeaderSize)
		l.frames++
		spaces := b.Spaces(min(l.frame, n-l.room))
		size := 0
		for _, p := range spaces {
			l.vector[l.segments] = p
			l.segments++
			size += len(p)
		}
		b.Advance(size)
		l.room += size
	}
	return l
}

// trim leaves what n bytes need, writes the headers, and ends the layout.
func (l *layout) trim(n int, id uint32) {
	size := l.mark
	for i := 0; n > 0; i++ {
		k := min(n, l.frame)
		h2.AppendFrame(l.headers[i][:0], k, h2.KindData, 0, id)
		size += h2.FrameHeaderSize + k
		n -= k
	}
	l.batch.Truncate(size)
	*l = layout{}
	layouts.Put(l)
}
