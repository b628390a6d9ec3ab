// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// run reads the tunnel until it ends, and then waits for what its last streams
// still deliver. It returns then, or as soon as the tunnel rests.
func (c *conn) run() {
	c.hooks.work.Add(1)
	c.readDeadline(time.Now().Add(settingsTimeout)) // unless it has ended already
	c.begin()
	c.read()
}

// begin writes what greet queued, along with the answer to what the peer has said by now.
func (c *conn) begin() {
	if w, ok := c.wire.(arriver); ok {
		if pieces := w.Arrived(); len(pieces) > 0 {
			c.received(pieces)
			return
		}
	}
	c.handled()
}

// arriver is a wire that can tell what has arrived, without waiting for more.
type arriver interface{ Arrived() [][]byte }

// read is run after the first lines, and what goes on after a rest.
func (c *conn) read() {
	for {
		if err := c.readOnce(); err != nil {
			fault := c.overdue(err)
			if fault == nil && !c.stays(err) && !c.growsUp(err) {
				c.fail(c.lost(err))
				break
			}
			if fault != nil {
				c.fail(fault)
			}
		}
		if c.quiet.Load() && !c.young && c.rest() {
			return
		}
	}
	c.dropPartial()
	c.depart()
	c.wait()
	c.ended.Done()
	if c.hooks.gone != nil {
		c.hooks.gone(c)
	}
	c.hooks.work.Done()
}

// readDeadline bounds the time in which what is due may come.
func (c *conn) readDeadline(t time.Time) {
	c.mu.Lock()
	defer c.unlock()
	if c.err == nil && !c.broken {
		c.wire.SetReadDeadline(t)
	}
}

// rester is a wire that can wait without a goroutine.
type rester interface {
	Rest(ready func()) socket.Ticket
}

// rest leaves an unused tunnel alone until something comes. Nothing may be due
// meanwhile, as no deadline ends a rest, but hurry.
func (c *conn) rest() bool {
	w, ok := c.wire.(rester)
	if !ok || c.in.Unfinished() {
		return false
	}
	c.mu.Lock()
	defer c.unlock()
	if c.err != nil || c.broken || !c.settled {
		return false
	}
	c.resting = w.Rest(c.read)
	return c.resting != 0
}

// growsUp ends the wait for the first stream of a tunnel: without one it may rest now.
func (c *conn) growsUp(err error) bool {
	c.mu.Lock()
	defer c.unlock()
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.err != nil || c.broken || !c.young {
		return false
	}
	c.young = false
	c.wire.SetReadDeadline(time.Time{})
	return true
}

// hurry bounds how long the reader still waits; mu is held.
func (c *conn) hurry() {
	c.wire.SetReadDeadline(time.Now().Add(hangUpTimeout))
	socket.Wake(c.resting)
}

// overdue is the violation behind a missed read deadline, nil if there is none.
func (c *conn) overdue(err error) error {
	c.mu.Lock()
	defer c.unlock()
	switch {
	case !errors.Is(err, os.ErrDeadlineExceeded) || c.err != nil || c.broken:
		return nil
	case !c.settled:
		return broken(h2.CodeSettingsTimeout, "no SETTINGS in %v", settingsTimeout)
	case c.in.Unfinished():
		return broken(h2.CodeCalm, "frame or header block not finished in %v", headerTimeout)
	}
	return nil
}

// readOnce handles what one read of the socket brought.
func (c *conn) readOnce() error {
	pieces, err := c.wire.Receive()
	if len(pieces) == 0 {
		return err
	}
	c.received(pieces)
	return err
}

// received handles pieces of what the peer said.
func (c *conn) received(pieces [][]byte) {
	c.heard.Store(true)
	c.writer.handling.Store(true)
	c.mu.Lock()
	c.beats()
	c.unlock()
	var fault error
	for _, p := range pieces {
		if fault = c.feed(p); fault != nil {
			break
		}
	}
	c.awaitRest()
	c.deliver()
	if fault != nil {
		c.fail(fault)
	}
	c.handled()
}

// handled has written what the reader caused. If the socket takes it at once,
// that needs no other goroutine.
func (c *conn) handled() {
	c.writer.handling.Store(false)
	c.mu.Lock()
	c.prove()
	c.proveLater()
	c.unlock()
	c.writer.run()
}

// deliver hands over what came for each stream, before the buffer with it is
// used again.
func (c *conn) deliver() {
	for i, s := range c.touched {
		segments, overhead, end := s.segments, s.overhead, s.end
		s.overhead, s.end, s.touched = 0, receiverOpen, false
		s.deliver(segments, overhead, end)
		clear(segments)
		s.segments = segments[:0]
		if cap(segments) > keptSegments {
			s.segments = nil
		}
		c.touched[i] = nil
	}
	c.touched = c.touched[:0]
}

func (c *conn) touch(s *Stream) {
	if !s.touched {
		s.touched = true
		c.touched = append(c.touched, s)
	}
}

// feed handles bytes of the tunnel; its streams' are noted for deliver.
func (c *conn) feed(b []byte) error {
	if c.over() {
		return nil // what was in flight when it ended
	}
	b, err := c.checkPreface(b)
	for err == nil && len(b) > 0 {
		var pc h2.Piece
		var n int
		var ok bool
		pc, n, ok, err = c.in.Next(b)
		err = tunnelErrorOf(err)
		b = b[n:]
		if ok {
			err = c.handle(pc)
			c.awaited = c.awaited && c.in.Unfinished()
		}
	}
	return err
}

func (c *conn) over() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.err != nil
}

// checkPreface takes the client's preface off the first bytes.
func (c *conn) checkPreface(b []byte) ([]byte, error) {
	for ; !c.client && c.prefaced < len(h2.Preface) && len(b) > 0; c.prefaced++ {
		if b[0] != h2.Preface[c.prefaced] {
			return nil, broken(h2.CodeProtocol, "no HTTP/2 preface")
		}
		b = b[1:]
	}
	return b, nil
}

// handle acts on one frame, or on a piece of DATA.
func (c *conn) handle(pc h2.Piece) error {
	if !c.settledSeen {
		if pc.Kind != h2.KindSettings || pc.Has(h2.FlagAck) {
			return broken(h2.CodeProtocol, "frame of type %d before SETTINGS", pc.Kind)
		}
		c.settledSeen = true
	}
	switch pc.Kind {
	case h2.KindData:
		return c.data(pc)
	case h2.KindHeaders, h2.KindContinuation:
		return c.headerBlock(pc)
	case h2.KindReset:
		return c.gotReset(pc)
	case h2.KindSettings:
		return c.gotSettings(pc)
	case h2.KindPing:
		return c.gotPing(pc)
	case h2.KindGoAway:
		return c.gotGoAway(pc)
	case h2.KindWindowUpdate:
		return c.windowUpdate(pc)
	}
	return c.meaningless() // PRIORITY and unknown types are ignored
}

func (c *conn) meaningless() error {
	if !c.noise.Spend(noiseRate) {
		return broken(h2.CodeCalm, "too many frames that mean nothing")
	}
	return nil
}

// data notes a piece of DATA for its stream.
func (c *conn) data(pc h2.Piece) error {
	if pc.First {
		s, err := c.takeData(pc.FrameHeader)
		if err != nil {
			return err
		}
		c.current, c.unclaimed = s, pc.Length
	}
	c.unclaimed -= len(pc.Payload)
	c.dataSeen += len(pc.Payload)
	s := c.current
	if s != nil && len(pc.Payload) > 0 {
		c.touch(s)
		s.segments = append(s.segments, pc.Payload)
	}
	if !pc.Last {
		return nil
	}
	c.current = nil
	if err := c.countEmpty(pc); err != nil {
		return err
	}
	if s != nil && (c.unclaimed > 0 || pc.Has(h2.FlagEndStream)) {
		c.touch(s)
		s.overhead += c.unclaimed
		if pc.Has(h2.FlagEndStream) {
			c.endReceived(s)
		}
	}
	return nil
}

// countEmpty bounds the DATA frames that bring nothing.
func (c *conn) countEmpty(pc h2.Piece) error {
	empty := c.dataSeen == 0 && !pc.Has(h2.FlagEndStream)
	c.dataSeen = 0
	if empty {
		if c.emptyData++; c.emptyData > emptyDataLimit {
			return broken(h2.CodeCalm, "more than %d empty DATA frames", emptyDataLimit)
		}
	}
	return nil
}

// endReceived notes that the peer sent all on a stream.
func (c *conn) endReceived(s *Stream) {
	c.mu.Lock()
	s.gotEnd = true
	if s.endSent {
		c.uncount(s)
	}
	c.unlock()
	c.touch(s)
	s.end = receiverEnded
}
