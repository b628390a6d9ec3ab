// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/record"
)

// How the writing is shared. Whoever has something to send and finds nobody
// writing becomes the leader: it packs what all have into one batch, reading from
// their apps' sockets straight into its records, writes it, and again, until
// nothing is left. Others only queue. After some batches a leader whose own app
// has nothing more passes on to one of them, so that no app's reader serves the
// others forever. Whoever has something else to do does not wait for a tunnel's socket:
// a leader that finds it full leaves the batch to a goroutine. So an app whose
// stream is ended is let go at once, a caller keeps its deadline, and two full
// tunnels' readers do not wait for each other.
const leaderBatches = 4

// sending is the state of a tunnel's writing side; conn.mu guards it.
type sending struct {
	control     []byte    // frames that precede all DATA, in order
	owed        int       // frames in control that the peer made us send
	small, bulk ring      // streams whose app may have something, and with a window to send it in
	window      int       // what the peer lets us send in the whole tunnel
	spentAt     time.Time // since when that is nothing; zero: it is something
	leading     bool
	handling    bool      // the reader is at work, and writes what it causes when it is done
	blockedAt   time.Time // since when the write under way waits for the socket; zero: it does not
	blockedBy   int       // bytes of that write
	blockedIn   int       // bytes of memory that it holds
	broken      bool      // a write failed

	peerWindow int // of a new stream
	peerFrame  int

	hangUp    bool // close the writing side when control is out
	writeDone bool
}

// nothingToSend reports that there is nothing to lead for; mu is held.
func (c *conn) nothingToSend() bool {
	return c.broken || c.writeDone || len(c.control) == 0 && !c.hangUp && c.ready() == nil
}

// ready is a stream that could send now; mu is held.
func (c *conn) ready() *Stream {
	if c.sending.window <= 0 {
		return nil
	}
	return c.first()
}

// kick starts a writer, another goroutine, if frames or streams are queued; mu is
// held. A stream that is queued waits in serve, and becomes the writer there.
func (c *conn) kick() {
	if c.leading || c.nothingToSend() {
		return
	}
	if s := c.ready(); s != nil {
		c.leading, s.leads = true, true
		s.changed.Broadcast()
		return
	}
	if c.handling {
		return
	}
	c.leading = true
	go func() {
		c.mu.Lock()
		c.leadUnlocking(nil)
		c.unlock()
	}()
}

// flushUnlocking writes a batch of what is queued. If a leader is at work, or a stream
// can lead, it leaves the writing to that; if the socket is full or the tunnel hangs up,
// to a goroutine. mu is held, and released meanwhile.
func (c *conn) flushUnlocking() {
	if c.leading || c.hangUp || c.nothingToSend() || c.ready() != nil {
		c.kick()
		return
	}
	c.leading = true
	if _, leads := c.writeNextUnlocking(false); leads {
		c.endLead()
	}
}

// flush is conn.flushUnlocking for a caller that does not hold conn.mu.
func (s *Stream) flush() {
	s.c.mu.Lock()
	defer s.c.unlock()
	s.c.flushUnlocking()
}

// leadUnlocking writes batch after batch, for a stream that has something to send
// or, with nil, in a goroutine that has nothing else to do and waits for the socket;
// mu is held, and released while writing.
func (c *conn) leadUnlocking(own *Stream) {
	for batches := 0; !c.nothingToSend(); batches++ {
		if batches >= leaderBatches && (own == nil || own.state != senderQueued) {
			break
		}
		n, leads := c.writeNextUnlocking(own == nil)
		if !leads {
			return
		}
		if n == 0 {
			break
		}
	}
	c.endLead()
}

// writeNextUnlocking packs and writes one batch, of n bytes. The caller leads no
// more if that was left to a goroutine, for want of room in the socket; one that
// waits does it itself. mu is held, and released meanwhile.
func (c *conn) writeNextUnlocking(waits bool) (n int, leads bool) {
	batch := record.TakeBatch(min(c.wanted(), c.mostAhead()))
	c.packUnlocking(batch)
	if n = batch.Len(); n == 0 {
		batch.Release()
		return 0, true
	}
	c.mu.Unlock()
	done, err := c.wire.Begin(batch)
	if done {
		batch.Release()
	}
	c.mu.Lock()
	if done {
		c.wrote(err)
		return n, true
	}
	c.blocked(batch)
	if !waits {
		go c.goOn(batch)
		return n, false
	}
	c.mu.Unlock()
	err = c.finish(batch)
	c.mu.Lock()
	c.wrote(err)
	return n, true
}

// blocked notes that the socket does not take a batch at once. Until it has, the pod
// holds the batch for a peer that may never read it; mu is held.
func (c *conn) blocked(b *record.Batch) {
	c.blockedAt, c.blockedBy, c.blockedIn = time.Now(), b.Len(), b.Cap()
	c.memory.hold(c.blockedIn)
}

// unblocked is the end of blocked; mu is held.
func (c *conn) unblocked() {
	c.keepPace(c.blockedBy, time.Since(c.blockedAt))
	c.memory.hold(-c.blockedIn)
	c.blockedAt, c.blockedIn = time.Time{}, 0
}

// finish waits for the socket to take the rest of a batch.
func (c *conn) finish(batch *record.Batch) error {
	defer batch.Release()
	return c.wire.Finish()
}

// wrote notes the end of a write; mu is held.
func (c *conn) wrote(err error) {
	if !c.blockedAt.IsZero() {
		c.unblocked()
	}
	if err != nil {
		c.tear()
	}
	c.mark()
}

// endLead starts the next writer if something is left to write; mu is held.
func (c *conn) endLead() {
	c.leading = false
	if c.hangUp && len(c.control) == 0 && !c.broken && !c.writeDone {
		c.leading, c.writeDone = true, true
		go c.sayGoodbye()
	}
	c.mark()
	c.kick()
}

// sayGoodbye is the last write. Only the end of the wire ends its wait for the
// socket. The reader sees to that end, so it must not call this.
func (c *conn) sayGoodbye() {
	c.wire.CloseWrite()
	c.mu.Lock()
	defer c.unlock()
	c.leading = false
	c.mark()
}

// handled has written what the reader caused. If the socket takes it at once,
// that needs no other goroutine.
func (c *conn) handled() {
	c.mu.Lock()
	defer c.unlock()
	c.handling = false
	c.prove()
	c.proveLater()
	c.flushUnlocking()
}

// goOn leads from a batch that the socket did not take at once.
func (c *conn) goOn(batch *record.Batch) {
	err := c.finish(batch)
	c.mu.Lock()
	defer c.unlock()
	c.wrote(err)
	c.leadUnlocking(nil)
}

// tear ends the writing side after a failed write. The reader learns what
// came before the end, and then fails the tunnel; mu is held.
func (c *conn) tear() {
	c.broken, c.torn = true, true
	c.control = nil
	if c.err == nil {
		c.hurry()
	}
}

// owe counts a frame that the peer made us queue, and has it written; mu is held.
func (c *conn) owe() error {
	if c.owed++; c.owed > unflushedLimit {
		return broken(h2.CodeCalm, "more than %d frames to answer", unflushedLimit)
	}
	c.kick()
	return nil
}
