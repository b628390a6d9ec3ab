// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// How the writing is shared. Whoever has something to send and finds nobody
// writing becomes the leader: it packs what all have into one buffer, writes it,
// and again, until nothing is left. Others only queue and, if it is DATA, wait
// until their bytes were copied. After some batches a leader whose own bytes are
// out passes on to a goroutine, so that no app's reader serves the others forever.
// The tunnel's reader never leads: it must not wait for the socket, or two
// full ones would wait for each other.
const (
	batchSize     = record.BatchSize
	quantum       = 64 << 10 // bytes that a stream sends before the next has its turn
	leaderBatches = 4
)

// sending is the state of a tunnel's writing side; conn.mu guards it.
type sending struct {
	control []byte // frames that precede all DATA, in order
	owed    int    // frames in control that the peer made us send
	ring    ring   // streams with something to send and a window to send it in
	window  int    // what the peer lets us send in the whole tunnel
	leading bool
	broken  bool // a write failed

	peerWindow  int // of a new stream
	peerFrame   int
	peerStreams int

	hangUp    bool // close the writing side when control is out
	writeDone bool
}

// ring is the streams that wait for their turn.
type ring struct {
	head, tail *Stream
	n          int
}

func (r *ring) push(s *Stream) {
	if s.queued {
		return
	}
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

// nothingToSend reports that there is nothing to lead for; mu is held.
func (c *conn) nothingToSend() bool {
	return c.broken || c.writeDone || (len(c.control) == 0 && c.ring.n == 0 && !c.hangUp)
}

// kick has what is queued written, by another goroutine; mu is held.
func (c *conn) kick() {
	if c.leading || c.nothingToSend() {
		return
	}
	c.leading = true
	go func() {
		c.mu.Lock()
		c.lead(nil, true)
		c.mu.Unlock()
	}()
}

// flush has what is queued written, by the caller if nobody else does; mu is
// held, and released meanwhile.
func (c *conn) flush(own *Stream) {
	if c.leading || c.nothingToSend() {
		return
	}
	c.leading = true
	c.lead(own, false)
}

// lead writes batch after batch. mu is held, and released while writing. A
// leader that does not stay has own to send, or just a frame, and then its own
// work to do.
func (c *conn) lead(own *Stream, stay bool) {
	for n := 0; !c.broken; n++ {
		if n >= leaderBatches && !stay && (own == nil || len(own.out) == 0) {
			c.leading = false
			c.kick()
			return
		}
		batch := record.TakeBatch(min(batchSize, c.queuedBytes()))
		c.pack(batch)
		if batch.Len() == 0 {
			batch.Release()
			break
		}
		c.mu.Unlock()
		err := c.wire.WriteBatch(batch)
		batch.Release()
		c.mu.Lock()
		if err != nil {
			c.breakOff()
		}
	}
	if c.hangUp && !c.broken && !c.writeDone {
		c.writeDone = true
		c.mu.Unlock()
		c.wire.CloseWrite()
		c.mu.Lock()
	}
	c.leading = false
}

// breakOff ends the writing side after a failed write. The reader learns what
// came before the end, and then fails the tunnel; mu is held.
func (c *conn) breakOff() {
	c.broken = true
	c.control = nil
	if c.err == nil {
		c.wire.SetReadDeadline(time.Now().Add(hangUpTimeout))
	}
}

// queuedBytes is what pack could use, at least; mu is held.
func (c *conn) queuedBytes() int {
	n := len(c.control)
	for s := c.ring.head; s != nil && n < batchSize; s = s.next {
		n += frameHeaderSize + len(s.out)
	}
	return n
}

// pack fills b with the next frames and wakes those whose bytes are all in it; mu is held.
func (c *conn) pack(b *record.Batch) {
	n := b.Append(c.control)
	c.control = c.control[:copy(c.control, c.control[n:])]
	if len(c.control) > 0 {
		return // a frame may be cut: nothing can come between
	}
	c.owed = 0
	if cap(c.control) > 4<<10 {
		c.control = nil
	}
	for blocked := 0; c.ring.n > blocked && b.Room() > 2*frameHeaderSize; {
		s := c.ring.pop()
		before := b.Len()
		c.packStream(b, s)
		if s.over || s.endSent || (len(s.out) == 0 && !s.endWanted) {
			s.changed.Broadcast()
			continue
		}
		if s.sendWindow > 0 || len(s.out) == 0 {
			c.ring.push(s)
			if b.Len() == before {
				blocked++ // by the tunnel's window
			}
		} // else the stream's WINDOW_UPDATE brings it back
	}
}

// packStream appends one frame of s, as large as all limits let it be.
func (c *conn) packStream(b *record.Batch, s *Stream) {
	if s.over || s.endSent {
		return
	}
	n := min(len(s.out), quantum, s.sendWindow, c.sending.window, c.peerFrame, b.Room()-frameHeaderSize)
	end := s.endWanted && n == len(s.out)
	if n <= 0 && !end {
		return
	}
	n = max(n, 0)
	var flags uint8
	if end {
		flags = flagEndStream
	}
	var header [frameHeaderSize]byte
	b.Append(appendFrame(header[:0], n, kindData, flags, s.id))
	b.Append(s.out[:n])
	s.out = s.out[n:]
	s.sendWindow -= n
	c.sending.window -= n
	if end {
		c.sentEnd(s)
	}
}

// owe counts a frame that the peer made us queue, and has it written; mu is held.
func (c *conn) owe() error {
	if c.owed++; c.owed > unflushedLimit {
		return violation(codeCalm, "more than %d frames to answer", unflushedLimit)
	}
	c.kick()
	return nil
}

// appendBlock appends a header block as HEADERS and, if need be, CONTINUATION.
func appendBlock(b []byte, id uint32, flags uint8, block []byte, most int) []byte {
	k := kindHeaders
	for {
		n := min(len(block), most)
		if n == len(block) {
			flags |= flagEndHeaders
		}
		b = appendFrame(b, n, k, flags, id)
		b = append(b, block[:n]...)
		if block = block[n:]; len(block) == 0 {
			return b
		}
		k, flags = kindContinuation, 0
	}
}
