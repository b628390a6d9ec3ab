// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/rate"
)

// granted accounts for n bytes of a stream that the app took (or that were
// padding), and for held bytes that were queued for it, negative if they are off
// the queue. It grants the peer as much again.
func (c *conn) granted(s *Stream, n, held int) {
	if n == 0 && held == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
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
// all that it may. It reports whether it did so; the caller severs the stream.
func (c *conn) overfull(s *Stream) bool {
	if !c.memory.exhausted() {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reset(s, codeCalm, errHeld)
}

var errHeld = fmt.Errorf("%w: too many bytes wait for apps of this pod that do not read", ErrLimit)

// takeData charges a DATA frame to the windows and finds its stream: nil for
// one that is over.
func (c *conn) takeData(f frame) (*Stream, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.receiving.window -= f.length; c.receiving.window < 0 {
		return nil, violation(codeFlowControl, "more DATA than the tunnel's window")
	}
	defer c.grantTunnel()
	s := c.streams[f.stream]
	if s == nil {
		return nil, c.strayData(f)
	}
	if s.closed() {
		return nil, violation(codeStreamClosed, "DATA on closed stream %d", f.stream)
	}
	if s.gotEnd {
		return nil, c.fault(s, codeStreamClosed, "DATA after END_STREAM")
	}
	if c.client && !s.accepted {
		return nil, c.fault(s, codeProtocol, "DATA before the answer")
	}
	if s.window -= f.length; s.window < 0 {
		return nil, c.fault(s, codeFlowControl, "more DATA than the stream's window")
	}
	s.tiny = rate.Left{} // an answer: what we sent was read
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
func (c *conn) strayData(f frame) error {
	if c.isIdle(f.stream) {
		return violation(codeProtocol, "DATA on idle stream %d", f.stream)
	}
	if c.ghost -= max(f.length, 1); c.ghost < 0 {
		return violation(codeStreamClosed, "DATA on closed stream %d", f.stream)
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

// fault resets a stream for what the peer did. A peer that has us do so
// again and again makes us work for nothing: that ends the tunnel. mu is held;
// the stream is severed by a goroutine, for it needs other locks.
func (c *conn) fault(s *Stream, why code, reason string) error {
	if !c.faults.Spend(faultRate) {
		return violation(codeCalm, "too many faults, the last: %s", reason)
	}
	if c.reset(s, why, fmt.Errorf("%w: %v: %s", ErrReset, why, reason)) {
		go s.sever()
	}
	return nil
}

func (c *conn) windowUpdate(pc piece) error {
	n := int(binary.BigEndian.Uint32(pc.payload) &^ (1 << 31))
	c.mu.Lock()
	defer c.mu.Unlock()
	if pc.stream == 0 {
		if n == 0 {
			return violation(codeProtocol, "WINDOW_UPDATE by 0")
		}
		if c.sending.window += n; c.sending.window > windowLimit {
			return violation(codeFlowControl, "tunnel window over 2^31-1")
		}
		if c.sending.window > 0 {
			c.spentAt = time.Time{}
		}
		c.kick()
		return nil
	}
	s := c.streams[pc.stream]
	switch {
	case s == nil && c.isIdle(pc.stream):
		return violation(codeProtocol, "WINDOW_UPDATE on idle stream %d", pc.stream)
	case s == nil:
		return nil
	case n == 0:
		return c.fault(s, codeProtocol, "WINDOW_UPDATE by 0")
	case s.sendWindow+n > windowLimit:
		return c.fault(s, codeFlowControl, "stream window over 2^31-1")
	}
	s.allow(n)
	return nil
}

// spend takes n bytes off what the peer lets us send in the whole tunnel; mu is held.
func (c *conn) spend(n int) {
	if c.sending.window -= n; c.sending.window <= 0 && c.spentAt.IsZero() {
		c.spentAt = time.Now()
	}
}

// starved reports that the peer has long let nothing be sent in the whole tunnel. A
// peer that grants the window again only as its apps read does so when enough of them
// do not: a new stream would wait for those.
func (c *conn) starved() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.spentAt.IsZero() && time.Since(c.spentAt) >= stuckPause
}

// allow changes the window in which a stream sends; conn.mu is held.
func (s *Stream) allow(n int) {
	s.sendWindow += n
	if s.sendWindow <= 0 {
		return
	}
	s.changed.Broadcast() // serve has it queued
}
