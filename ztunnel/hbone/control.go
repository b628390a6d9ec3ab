// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"fmt"
	"time"
)

func (c *conn) gotSettings(pc piece) error {
	if pc.has(flagAck) {
		return nil
	}
	if !c.settings.Spend(settingsRate) {
		return violation(codeCalm, "too many SETTINGS")
	}
	for b := pc.payload; len(b) > 0; b = b[6:] {
		if err := checkSetting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			return err
		}
	}
	c.mu.Lock()
	first := !c.settled
	if first {
		c.peerStreams = windowLimit // what it does not say has no limit
	}
	for b := pc.payload; len(b) > 0; b = b[6:] {
		if err := c.set(binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint32(b[2:]))); err != nil {
			c.mu.Unlock()
			return err
		}
	}
	c.settled = true
	c.roomChanged()
	if first && !c.broken && c.err == nil {
		c.wire.SetReadDeadline(time.Time{})
	}
	c.control = appendFrame(c.control, 0, kindSettings, flagAck, 0)
	err := c.owe()
	c.mu.Unlock()
	if first && c.hooks.proven != nil {
		c.hooks.proven(c)
	}
	return err
}

// checkSetting is done for all before any is applied.
func checkSetting(id uint16, value uint32) error {
	switch {
	case id == settingEnablePush && value > 1:
		return violation(codeProtocol, "ENABLE_PUSH %d", value)
	case id == settingWindow && value > windowLimit:
		return violation(codeFlowControl, "INITIAL_WINDOW_SIZE %d", value)
	case id == settingFrameSize && (value < defaultFrameLimit || value > 1<<24-1):
		return violation(codeProtocol, "MAX_FRAME_SIZE %d", value)
	}
	return nil
}

// set applies one setting; mu is held.
func (c *conn) set(id uint16, value int) error {
	switch id {
	case settingMaxStreams:
		c.peerStreams = value
	case settingFrameSize:
		c.peerFrame = value
	case settingWindow:
		change := value - c.peerWindow
		c.peerWindow = value
		for _, s := range c.streams {
			if s.sendWindow+change > windowLimit {
				return violation(codeFlowControl, "INITIAL_WINDOW_SIZE widens stream %d over 2^31-1", s.id)
			}
			s.allow(change)
		}
	}
	return nil
}

// pingData is of the PING that follows the first GOAWAY of two, unlike the others.
var pingData = [8]byte{'g', 'o', 'a', 'w', 'a', 'y'}

func (c *conn) gotPing(pc piece) error {
	data := [8]byte(pc.payload)
	c.mu.Lock()
	defer c.mu.Unlock()
	if pc.has(flagAck) {
		switch data {
		case pingData:
			c.goAwayFinal()
		case guardPing:
			c.pinged()
		}
		return nil
	}
	if !c.pings.Spend(pingRate) {
		return violation(codeCalm, "too many PINGs")
	}
	c.control = appendPing(c.control, flagAck, data)
	return c.owe()
}

func (c *conn) gotReset(pc piece) error {
	why := code(binary.BigEndian.Uint32(pc.payload))
	c.mu.Lock()
	s := c.streams[pc.stream]
	if s == nil {
		idle := c.isIdle(pc.stream)
		c.mu.Unlock()
		if idle {
			return violation(codeProtocol, "RST_STREAM on idle stream %d", pc.stream)
		}
		return c.meaningless()
	}
	if s.closed() {
		c.mu.Unlock()
		return c.meaningless()
	}
	if why == codeNone && s.gotEnd {
		// The peer has sent all and wants no more from us: no reset,
		// the app shall read to the end.
		c.sentEnd(s)
		s.changed.Broadcast()
		c.mu.Unlock()
		s.stopReading()
		return nil
	}
	cause := c.resetError(s, why)
	if s.accepted {
		c.cut(s, cause)
		c.mu.Unlock()
		s.stopReading()
		c.touch(s)
		s.end = receiverCut
		return nil
	}
	c.end(s, cause) // no app waits for what came before
	c.mu.Unlock()
	s.sever()
	if !c.client && !c.earlyReset.Spend(earlyResetRate) {
		return violation(codeCalm, "too many streams reset before their answer")
	}
	return nil
}

// resetError is how a stream ends that the peer reset; mu is held.
func (c *conn) resetError(s *Stream, why code) error {
	if why == codeRefused && c.client && !s.accepted {
		return &notTaken{fmt.Errorf("%w: peer refused the stream", ErrLimit), c.overfilled(s)}
	}
	return fmt.Errorf("%w: peer reset the stream: %v", ErrReset, why)
}

// leave is the state of an end that was announced.
type leave struct {
	farewell  int // GOAWAY frames sent: 0, the warning, or the last
	lastTaken uint32
	goodbye   string // what the peer's GOAWAY said, if it named an error
}

// leaving reports that the last GOAWAY is yet to be sent; mu is held.
func (c *conn) leaving() bool { return c.farewell == 1 }

// goAway is a server's announcement that it takes no new streams. First it
// only warns, as requests may be on their way, and one round trip or a second
// later says which was the last it took. mu is held.
func (c *conn) goAway() {
	if c.farewell > 0 {
		return
	}
	c.farewell = 1
	c.control = appendGoAway(c.control, windowLimit, codeNone, "")
	c.control = appendPing(c.control, 0, pingData)
	c.farewellTimer = time.AfterFunc(goAwayDelay, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.goAwayFinal()
	})
	c.kick()
}

// goAwayFinal is the second; mu is held.
func (c *conn) goAwayFinal() {
	if c.farewell != 1 || c.err != nil {
		return
	}
	c.farewell, c.lastTaken = 2, c.lastPeer
	c.control = appendGoAway(c.control, c.lastTaken, codeNone, "")
	c.kick()
	c.closeIfUnused()
}

// gotGoAway has the tunnel take no new streams. Those that the peer did not
// take may be opened elsewhere.
func (c *conn) gotGoAway(pc piece) error {
	last := binary.BigEndian.Uint32(pc.payload) &^ (1 << 31)
	why := code(binary.BigEndian.Uint32(pc.payload[4:]))
	c.mu.Lock()
	first := !c.retired
	c.takesNoMore()
	if why != codeNone {
		c.goodbye = fmt.Sprintf("%v %.200q", why, pc.payload[8:])
	}
	var victims []*Stream
	for _, s := range c.streams {
		if c.client && s.id > last && c.end(s, &notTaken{err: fmt.Errorf("%w: peer is going away", ErrReset)}) {
			victims = append(victims, s)
		}
	}
	open := !c.unused()
	c.closeIfUnused()
	c.mu.Unlock()
	for _, s := range victims {
		s.sever()
	}
	if first && open && why == codeNone && c.hooks.leaving != nil {
		c.hooks.leaving(c)
	}
	return nil
}
