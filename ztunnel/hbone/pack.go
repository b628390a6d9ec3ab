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

// ring is the streams that wait for their turn.
type ring struct {
	head, tail *Stream
	n          int
}

func (r *ring) push(s *Stream) {
	s.queued, s.next = true, nil
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
	s.queued, s.next = false, nil
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

// enqueue has a stream wait for its turn. Those that send little go first:
// they wait for no more than the batch under way. mu is held.
func (c *conn) enqueue(s *Stream) {
	if !s.queued {
		c.ringOf(s).push(s)
	}
}

func (c *conn) ringOf(s *Stream) *ring {
	if s.reads.Smallest() {
		return &c.small
	}
	return &c.bulk
}

// next takes the stream whose turn it is, nil if there is none; mu is held.
// Half of a batch is enough for the small ones.
func (c *conn) next(b *record.Batch) *Stream {
	for c.small.n+c.bulk.n > 0 {
		r := &c.small
		if r.n == 0 || c.bulk.n > 0 && b.Len() >= record.BatchSize/2 {
			r = &c.bulk
		}
		if s := r.pop(); s.sends() {
			return s
		}
	}
	return nil
}

// first is the stream that next would take, and those that are over it drops; mu is held.
func (c *conn) first() *Stream {
	for _, r := range []*ring{&c.small, &c.bulk} {
		for r.n > 0 && !r.head.sends() {
			r.pop()
		}
		if r.n > 0 {
			return r.head
		}
	}
	return nil
}

// wanted is the bytes that the next batch may hold, at least; mu is held.
func (c *conn) wanted() int {
	n := len(c.control)
	for _, r := range []*ring{&c.small, &c.bulk} {
		for s := r.head; s != nil && n < record.BatchSize; s = s.next {
			n += h2.FrameHeaderSize + min(s.reads.Size(readSizes), max(s.sendWindow, 0))
		}
	}
	return n
}

// pack fills b with the next frames: those in control, and then DATA that it
// reads from the apps whose turn it is. mu is held, and released while reading:
// what came into control meanwhile goes before the DATA of the stream that it
// is about, which may be the next.
func (c *conn) pack(b *record.Batch) {
	for c.packControl(b) && c.sending.window > 0 && b.Room() > 2*h2.FrameHeaderSize {
		s := c.next(b)
		if s == nil {
			return
		}
		if s.sendWindow > 0 { // else its WINDOW_UPDATE has it queued again
			c.takeTurn(b, s)
		}
		if !s.queued {
			s.changed.Broadcast()
		}
	}
}

// packControl reports whether b took all of control. If not, a frame may be
// cut, and nothing can come between; mu is held.
func (c *conn) packControl(b *record.Batch) bool {
	n := b.Append(c.control)
	c.control = c.control[:copy(c.control, c.control[n:])]
	if len(c.control) > 0 {
		return false
	}
	c.owed = 0
	if cap(c.control) > 4<<10 || c.quiet.Load() {
		c.control = nil
	}
	return true
}

// takeTurn reads once from a stream's app into b; mu is held, and released
// while reading. A stream stays queued until its socket is found empty: a read
// that brought less than there was room for may have been the last before a FIN,
// of which the poller has told already and does so only once.
func (c *conn) takeTurn(b *record.Batch, s *Stream) {
	l := c.lay(b, min(s.reads.Size(readSizes), s.sendWindow, c.sending.window))
	room := l.room
	c.sending.window -= room // early data must not be sent in the same window
	s.inTurn = true
	c.mu.Unlock()
	n, err := s.readv(l.vector[:l.segments])
	broke := n == 0 && err == nil && socket.Broke(s.fd)
	c.mu.Lock()
	s.inTurn = false
	c.sending.window += room
	if !s.sends() {
		n, err = 0, syscall.EAGAIN
	}
	l.trim(n, s.id)
	switch {
	case err == syscall.EAGAIN:
		s.empty = true
	case err != nil:
		s.readErr = err
	case n == 0 && (s.broke != nil || broke && !s.toApp.is(receiverTold)):
		// Not both sides have sent FIN. The kernel tells a reset once, and
		// whoever writes to the app was told first.
		s.readErr = syscall.ECONNRESET
	case n == 0:
		h2.AppendFrame(b.Reserve(h2.FrameHeaderSize)[:0], 0, h2.KindData, h2.FlagEndStream, s.id)
		c.sentEnd(s)
	default:
		s.sendWindow -= n
		c.spend(n)
		s.sent.Add(uint64(n))
		s.reads.Learn(readSizes, n, room)
		if n < tinySize {
			s.tiny.Spend(tinyRate)
		}
		if s.sendWindow > 0 && !s.tiny.Spent(tinyRate) { // else serve decides
			c.enqueue(s)
		}
	}
}

// readv reads what the app says: first what was read early and could not be sent
// then; a leader's.
func (s *Stream) readv(vector [][]byte) (n int, err error) {
	if len(s.ahead) == 0 {
		return socket.Readv(s.fd, vector)
	}
	for _, p := range vector {
		m := copy(p, s.ahead)
		s.ahead = s.ahead[m:]
		n += m
	}
	return n, nil
}

// sentEnd notes that we sent all on a stream; mu is held.
func (c *conn) sentEnd(s *Stream) {
	s.endSent = true
	if s.gotEnd {
		c.uncount(s)
	}
	if s.told {
		c.arrive(s)
	}
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
func (c *conn) lay(b *record.Batch, n int) *layout {
	l := layouts.Get().(*layout)
	l.batch, l.mark, l.frame = b, b.Len(), c.peerFrame
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
