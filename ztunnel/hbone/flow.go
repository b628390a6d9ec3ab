// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// granted accounts for n bytes of a stream that the app took (or that were
// padding), and for held bytes that were queued for it, negative if they are off
// the queue. It grants the peer as much again.
func (c *conn) granted(s *Stream, n, held int) {
	if n == 0 && held == 0 {
		return
	}
	c.mu.Lock()
	defer c.unlock()
	s.unacked += n
	c.grant(s)
	if held != 0 {
		c.held += held
		s.held += held
		c.memory.hold(held)
		c.grantTunnel()
	}
}

// overfull ends a stream for whose app bytes are queued although this process holds
// all that it may, if its tunnel has a part in that. It reports whether it did so.
func (c *conn) overfull(s *Stream) bool {
	if !c.memory.exhausted() {
		return false
	}
	c.mu.Lock()
	defer c.unlock()
	return (c.holdsMuch() || c.memory.flooded()) && c.reset(s, h2.CodeCalm, errHeld)
}

// holdsMuch reports that the tunnel holds more than one stream may at first and what
// was lent to all of its streams, which has a bound of its own; mu is held.
func (c *conn) holdsMuch() bool {
	most := streamWindow
	for _, s := range c.streams {
		most += s.lent
	}
	return c.held > most
}

var errHeld = fmt.Errorf("%w: too many bytes wait for apps of this pod that do not read", ErrLimit)

// takeData charges a DATA frame to the windows and finds its stream: nil for
// one that is over.
func (c *conn) takeData(f h2.FrameHeader) (*Stream, error) {
	c.mu.Lock()
	defer c.unlock()
	if c.receiving.window -= f.Length; c.receiving.window < 0 {
		return nil, broken(h2.CodeFlowControl, "more DATA than the tunnel's window")
	}
	defer c.grantTunnel()
	s := c.streams[f.Stream]
	if s == nil {
		return nil, c.strayData(f)
	}
	if s.closed() {
		return nil, broken(h2.CodeStreamClosed, "DATA on closed stream %d", f.Stream)
	}
	if s.gotEnd {
		return nil, c.fault(s, h2.CodeStreamClosed, "DATA after END_STREAM")
	}
	if c.client && !s.accepted {
		return nil, c.fault(s, h2.CodeProtocol, "DATA before the answer")
	}
	if s.window -= f.Length; s.window < 0 {
		return nil, c.fault(s, h2.CodeFlowControl, "more DATA than the stream's window")
	}
	c.writer.answered(s)
	return s, nil
}

// forgive lets the peer finish what it may be sending on a stream that we end
// before it did; mu is held.
func (c *conn) forgive(s *Stream) {
	c.ghost = min(c.ghost+s.limit+1, ghostLimit)
}

// strayData judges DATA of a stream that is not open. What we reset, the peer
// may have been sending already: as much as the windows of those streams let
// it. mu is held.
func (c *conn) strayData(f h2.FrameHeader) error {
	if c.isIdle(f.Stream) {
		return broken(h2.CodeProtocol, "DATA on idle stream %d", f.Stream)
	}
	if c.ghost -= max(f.Length, 1); c.ghost < 0 {
		return broken(h2.CodeStreamClosed, "DATA on closed stream %d", f.Stream)
	}
	return nil
}

// isIdle reports whether no stream with this id was ever opened; mu is held.
func (c *conn) isIdle(id uint32) bool {
	if id%2 == 0 { // a server's, which opens none
		return true
	}
	if c.client {
		return id >= c.nextID
	}
	return id > c.lastPeer
}

// fault resets a stream for what the peer did. A peer that makes us
// do so again and again makes us work for nothing: that ends the tunnel. mu is held.
func (c *conn) fault(s *Stream, why h2.Code, reason string) error {
	if !c.faults.Spend(faultRate) {
		return broken(h2.CodeCalm, "too many faults, the last: %s", reason)
	}
	c.reset(s, why, fmt.Errorf("%w: %v: %s", ErrReset, why, reason))
	return nil
}

func (c *conn) windowUpdate(pc h2.Piece) error {
	n := int(binary.BigEndian.Uint32(pc.Payload) &^ (1 << 31))
	if pc.Stream == 0 {
		switch {
		case n == 0:
			return broken(h2.CodeProtocol, "WINDOW_UPDATE by 0")
		case !c.writer.allowAll(n):
			return broken(h2.CodeFlowControl, "tunnel window over 2^31-1")
		}
		return nil
	}
	c.mu.Lock()
	defer c.unlock()
	s := c.streams[pc.Stream]
	switch {
	case s == nil && c.isIdle(pc.Stream):
		return broken(h2.CodeProtocol, "WINDOW_UPDATE on idle stream %d", pc.Stream)
	case s == nil:
		return nil
	case n == 0:
		return c.fault(s, h2.CodeProtocol, "WINDOW_UPDATE by 0")
	case !c.writer.allow(s, n):
		return c.fault(s, h2.CodeFlowControl, "stream window over 2^31-1")
	}
	return nil
}

// allowAll adds to what the peer lets us send in the whole tunnel, and wakes the
// writer. It reports false if that is more than there may be.
func (w *writer) allowAll(n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.window += n
	if w.window > 0 {
		w.spentAt = time.Time{}
	}
	w.kick()
	return w.window <= h2.WindowLimit
}

// allow is allowAll for one stream.
func (w *writer) allow(s *Stream, n int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.allow(n)
}

// allow changes the window in which a stream sends. It reports false if it would be
// more than there may be; writer.mu is held.
func (s *Stream) allow(change int) bool {
	if s.sendWindow+change > h2.WindowLimit {
		return false
	}
	if s.sendWindow += change; s.sendWindow > 0 {
		s.hasChanged() // serve queues it
	}
	return true
}

// answered notes that something came for a stream: so what we sent was read.
func (w *writer) answered(s *Stream) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.tiny = rate.Left{}
}

// spend takes n bytes off what the peer lets us send in the whole tunnel; mu is held.
func (w *writer) spend(n int) {
	if w.window -= n; w.window <= 0 && w.spentAt.IsZero() {
		w.spentAt = time.Now()
	}
}

// starved reports that the peer has long let nothing be sent in the whole tunnel. A
// peer that grants the window again only as its apps read does so when enough of them
// do not: a new stream would wait for those.
func (w *writer) starved() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.spentAt.IsZero() && time.Since(w.spentAt) >= stuckPause
}
