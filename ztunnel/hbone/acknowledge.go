// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// acknowledging is what a tunnel sent and has yet to hear of; conn.mu guards it.
//
// Nothing in HTTP/2 says that a stream's last bytes arrived: the peer's
// END_STREAM is about its own direction. Its TCP does. A stream that said all
// gets a mark, how many bytes of the tunnel the socket had taken when its
// END_STREAM was among them. When its app has all, too, it is done as soon as so many
// are acknowledged: those written less SIOCOUTQ. An app may take its time, and the
// tunnel end before it: what was acknowledged by then still counts. The reader asks,
// once for all streams that wait, when it was busy anyway; the peer's bytes brought
// its acknowledgement along. Only in a tunnel that falls silent a timer asks. Then
// Carry asks the app's socket too (settle.go).
type acknowledging struct {
	unmarked   []*Stream // have said all, and wait for their mark
	unproven   []*Stream // orderly, and not known to have arrived; by their marks
	asked      int       // of SIOCOUTQ
	askErr     error
	askUnacked func(fd uintptr) // bound once
	prover     *time.Timer
	proving    bool // prover will fire
	pause      time.Duration

	torn    bool  // a write failed, so that not all was even written
	closed  bool  // the socket is
	finally int64 // and by then so many bytes were acknowledged
	departure
}

// notWritten is the mark of a stream whose END_STREAM the socket has not taken yet.
const notWritten = math.MaxInt64

// Pauses of the timer: a kernel may acknowledge 40 ms after the bytes came.
const (
	proofPause        = 10 * time.Millisecond
	longestProofPause = 200 * time.Millisecond
	lastFewPauses     = time.Millisecond // when the peer has said all
)

// arrive ends a stream of which both sides have said all. It is over and off its
// tunnel; done follows with the proof. mu is held.
func (c *conn) arrive(s *Stream) {
	if s.over {
		return
	}
	s.orderly = true
	c.remove(s)
	if !c.closed {
		at, _ := slices.BinarySearchFunc(c.unproven, s.mark, func(s *Stream, mark int64) int { return cmp.Compare(s.mark, mark) })
		c.unproven = slices.Insert(c.unproven, at, s)
		c.proveLater()
		return
	}
	if s.mark > c.finally {
		s.err = c.unheard()
	}
	s.isDone()
}

// sentEnd notes that we sent all on a stream; mu is held.
func (c *conn) sentEnd(s *Stream) {
	c.writer.stop(s)
	s.endSent = true
	if s.gotEnd {
		c.uncount(s)
	}
	c.unmarked = append(c.unmarked, s)
	if !c.writer.await() { // else its END_STREAM may be yet to be written
		c.mark()
	}
	if s.told {
		c.arrive(s)
	}
}

// written is called by the leader when all was written that was packed.
func (c *conn) written() {
	c.mu.Lock()
	defer c.unlock()
	c.mark()
}

// tear notes that a write failed. The reader learns what came before the end, and
// then fails the tunnel.
func (c *conn) tear() {
	c.mu.Lock()
	defer c.unlock()
	c.broken, c.torn = true, true
	if c.err == nil {
		c.hurry()
	}
}

// mark notes that the socket has taken all that was packed; mu is held.
func (c *conn) mark() {
	if c.torn || len(c.unmarked) == 0 {
		return
	}
	written := int64(c.wire.Written()) // no mark is higher: unproven keeps its order
	for _, s := range c.unmarked {
		s.mark = written
	}
	c.unmarked = emptied(c.unmarked)
}

// prove ends the wait of those streams that have arrived; mu is held.
func (c *conn) prove() {
	if len(c.unproven) == 0 || c.unproven[0].mark == notWritten {
		return
	}
	arrived := c.arrived()
	n := 0
	for n < len(c.unproven) && c.unproven[n].mark <= arrived {
		c.unproven[n].isDone()
		n++
	}
	c.unproven = slices.Delete(c.unproven, 0, n)
	if len(c.unproven) == 0 {
		c.unproven = emptied(c.unproven)
	}
}

// emptied is the list without streams, and without memory that few of them need.
func emptied(list []*Stream) []*Stream {
	if cap(list) > 64 {
		return nil
	}
	clear(list)
	return list[:0]
}

// arrived is how many bytes of the tunnel the peer's TCP has acknowledged, at
// least; mu is held. What is no socket has no buffer either.
func (c *conn) arrived() int64 {
	written := int64(c.wire.Written()) // first: what is written meanwhile only makes it less
	if c.rtt.socket == nil {
		return written
	}
	if c.askUnacked == nil {
		c.askUnacked = func(fd uintptr) { c.asked, c.askErr = socket.Unacked(fd) }
	}
	if err := c.rtt.socket.Control(c.askUnacked); err != nil || c.askErr != nil {
		return -1
	}
	return written - int64(c.asked)
}

// proveLater has the timer ask, unless the reader is about to; mu is held.
func (c *conn) proveLater() {
	if len(c.unproven) == 0 || c.proving || c.writer.handling.Load() || c.closed {
		return
	}
	c.proving, c.pause = true, proofPause
	if c.prover == nil {
		c.prover = time.AfterFunc(c.pause, c.proveLate)
	} else {
		c.prover.Reset(c.pause)
	}
}

func (c *conn) proveLate() {
	c.mu.Lock()
	defer c.unlock()
	c.prove()
	if c.proving = len(c.unproven) > 0 && !c.closed; c.proving {
		c.pause = min(2*c.pause, longestProofPause)
		c.prover.Reset(c.pause)
	}
}

// disown ends a stream's wait for its proof, if it does wait, by err; mu is held.
func (c *conn) disown(s *Stream, err error) {
	if i := slices.Index(c.unproven, s); i >= 0 {
		c.unproven = slices.Delete(c.unproven, i, i+1)
		s.err = err
		s.isDone()
	}
}

// unheard is how a stream ends whose last bytes nobody acknowledged: not in
// order; mu is held.
func (c *conn) unheard() error {
	cause := ErrReset
	if c.cutFor != nil && !errors.As(c.cutFor, &cause) {
		cause = ErrReset
	}
	return fmt.Errorf("%w: the tunnel ended before the peer acknowledged the last bytes", cause)
}
