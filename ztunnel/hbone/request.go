// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// headerBlock collects a header block and handles it when it is whole.
func (c *conn) headerBlock(pc h2.Piece) error {
	if pc.Kind == h2.KindHeaders {
		c.opening = pc.FrameHeader
	}
	if pc.Kind == h2.KindHeaders && pc.Has(h2.FlagEndHeaders) { // nearly always: no copy
		return c.gotHeaders(pc.Payload)
	}
	c.block = append(c.block, pc.Payload...)
	if !pc.Has(h2.FlagEndHeaders) {
		return nil
	}
	block := c.block
	c.block = nil
	return c.gotHeaders(block)
}

func (c *conn) gotHeaders(block []byte) error {
	if c.headers == nil {
		c.headers = h2.NewDecoder(c.in.HeaderLimit)
	}
	f, err := c.headers.Decode(block)
	if err != nil {
		return tunnelErrorOf(err)
	}
	if c.client {
		return c.gotAnswer(f)
	}
	return c.gotRequest(f)
}

// gotRequest opens a stream for a CONNECT, or refuses it.
func (c *conn) gotRequest(f h2.Fields) error {
	id, end := c.opening.Stream, c.opening.Has(h2.FlagEndStream)
	c.mu.Lock()
	if id%2 == 0 || id <= c.lastPeer {
		s := c.streams[id]
		c.unlock()
		return c.lateHeaders(s, f)
	}
	c.lastPeer = id
	if c.writer.crammed() {
		c.unlock()
		return broken(h2.CodeCalm, "more than %d bytes of answers that are not read", controlLimit)
	}
	if c.farewell == farewellSaid { // the peer was told which stream was the last
		c.ghost = min(c.ghost+streamWindow+1, ghostLimit)
		c.unlock()
		return c.refused()
	}
	s := newStream(c, id, c.local)
	s.gotEnd = end
	if end {
		s.toApp.become(receiverEnded) // nobody else knows the stream
	}
	if c.active > c.streamLimit || c.live >= liveFactor*c.streamLimit || c.outdated() {
		c.reset(s, h2.CodeRefused, errTooMany)
		c.unlock()
		c.turnedAway(errTooMany)
		return c.refused()
	}
	if problem := f.MalformedRequest(); problem != "" {
		err := c.fault(s, h2.CodeProtocol, problem)
		c.unlock()
		c.turnedAway(fmt.Errorf("%w: malformed request: %s", ErrReset, problem))
		return err
	}
	target, status := f.Request(c.local.Addr())
	if status != 0 {
		c.reject(s, status)
		err := c.writer.owe()
		c.unlock()
		c.turnedAway(&StatusError{status})
		return errors.Join(err, c.refused())
	}
	s.target, s.header = target.Authority, &target.Header
	c.live++
	c.unlock()
	if !c.hooks.incoming(s) {
		s.resetWith(h2.CodeRefused, errTooMany)
		s.letGo()
		c.turnedAway(errTooMany)
		return c.refused()
	}
	return nil
}

// turnedAway records a request that nobody will accept; mu is not held.
func (c *conn) turnedAway(err error) {
	if c.hooks.refused != nil {
		c.hooks.refused(c, err)
	}
}

var errTooMany = fmt.Errorf("%w: too many streams", ErrLimit)

// refused counts a stream that was turned away.
func (c *conn) refused() error {
	if !c.refusals.Spend(refusalRate) {
		return broken(h2.CodeCalm, "too many streams over the limit")
	}
	return nil
}

// lateHeaders judges HEADERS on a stream that is not new: trailers, which mean
// nothing but that the peer has sent all, or a mistake.
func (c *conn) lateHeaders(s *Stream, trailers h2.Fields) error {
	id := c.opening.Stream
	if s == nil {
		c.mu.Lock()
		defer c.unlock()
		if c.isIdle(id) {
			return broken(h2.CodeProtocol, "HEADERS on stream %d, which is not the peer's to open", id)
		}
		if c.ghost--; c.ghost < 0 {
			return broken(h2.CodeStreamClosed, "HEADERS on closed stream %d", id)
		}
		return nil
	}
	c.mu.Lock()
	switch {
	case s.gotEnd:
		defer c.unlock()
		return c.fault(s, h2.CodeStreamClosed, "HEADERS after END_STREAM")
	case !c.opening.Has(h2.FlagEndStream):
		defer c.unlock()
		return c.fault(s, h2.CodeProtocol, "HEADERS in the middle of a stream")
	case trailers.MalformedTrailers() != "":
		defer c.unlock()
		return c.fault(s, h2.CodeProtocol, trailers.MalformedTrailers())
	}
	c.unlock()
	c.endReceived(s)
	return nil
}

// gotAnswer handles the response to one of our CONNECTs.
func (c *conn) gotAnswer(f h2.Fields) error {
	c.mu.Lock()
	s := c.streams[c.opening.Stream]
	if s == nil || s.accepted {
		c.unlock()
		return c.lateHeaders(s, f)
	}
	status, problem := f.Answer()
	end := c.opening.Has(h2.FlagEndStream)
	switch {
	case problem != "":
		defer c.unlock()
		return c.fault(s, h2.CodeProtocol, "malformed answer: "+problem)
	case status < 200 && end:
		defer c.unlock()
		return c.fault(s, h2.CodeProtocol, "1xx answer that ends the stream")
	case status < 200:
		defer c.unlock()
		if s.interim++; s.interim > informationalLimit {
			return c.fault(s, h2.CodeProtocol, "too many 1xx answers")
		}
		return nil
	case status >= 300:
		s.gotEnd = end
		c.reset(s, h2.CodeCancel, &StatusError{status})
		c.unlock()
		return nil
	}
	s.accepted = true
	s.header = &f.Header
	close(s.answered)
	s.wake()
	c.unlock()
	if end {
		c.endReceived(s)
	}
	return nil
}
