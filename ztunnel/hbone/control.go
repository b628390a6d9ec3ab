// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

func (c *conn) gotSettings(pc h2.Piece) error {
	if pc.Has(h2.FlagAck) {
		return nil
	}
	if !c.settings.Spend(settingsRate) {
		return broken(h2.CodeCalm, "too many SETTINGS")
	}
	for b := pc.Payload; len(b) > 0; b = b[6:] {
		if err := checkSetting(binary.BigEndian.Uint16(b), binary.BigEndian.Uint32(b[2:])); err != nil {
			return err
		}
	}
	c.mu.Lock()
	first := !c.settled
	if first {
		c.peerStreams = h2.WindowLimit // what it does not say has no limit
	}
	if err := c.writer.adopt(func() error { return c.set(pc.Payload) }); err != nil {
		c.unlock()
		return err
	}
	c.settled = true
	c.roomChanged()
	if first && !c.broken && c.err == nil {
		c.young = true
		c.wire.SetReadDeadline(time.Now().Add(firstRest))
	}
	c.unlock()
	err := c.writer.owe()
	if first && c.hooks.proven != nil {
		c.hooks.proven(c)
	}
	return err
}

// checkSetting is done for all before any is applied.
func checkSetting(id uint16, value uint32) error {
	switch {
	case id == h2.SettingEnablePush && value > 1:
		return broken(h2.CodeProtocol, "ENABLE_PUSH %d", value)
	case id == h2.SettingWindow && value > h2.WindowLimit:
		return broken(h2.CodeFlowControl, "INITIAL_WINDOW_SIZE %d", value)
	case id == h2.SettingFrameSize && (value < h2.DefaultFrameLimit || value > 1<<24-1):
		return broken(h2.CodeProtocol, "MAX_FRAME_SIZE %d", value)
	}
	return nil
}

// set applies settings; mu and writer.mu are held.
func (c *conn) set(settings []byte) error {
	for b := settings; len(b) > 0; b = b[6:] {
		switch value := int(binary.BigEndian.Uint32(b[2:])); binary.BigEndian.Uint16(b) {
		case h2.SettingMaxStreams:
			c.peerStreams = value
		case h2.SettingFrameSize:
			c.writer.peerFrame = value
		case h2.SettingWindow:
			change := value - c.peerWindow
			c.peerWindow = value
			for _, s := range c.streams {
				if !s.allow(change) {
					return broken(h2.CodeFlowControl, "INITIAL_WINDOW_SIZE widens stream %d over 2^31-1", s.id)
				}
			}
		}
	}
	return nil
}

// adopt applies the peer's settings and queues the answer. Both are one step: what is
// written before the answer keeps to the old settings, what is written behind it to the new.
func (w *writer) adopt(apply func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := apply(); err != nil {
		return err
	}
	w.control = h2.AppendFrame(w.control, 0, h2.KindSettings, h2.FlagAck, 0)
	return nil
}

// pingData is of the PING that follows the first GOAWAY of two, unlike the others.
var pingData = [8]byte{'g', 'o', 'a', 'w', 'a', 'y'}

func (c *conn) gotPing(pc h2.Piece) error {
	data := [8]byte(pc.Payload)
	if pc.Has(h2.FlagAck) {
		c.mu.Lock()
		defer c.unlock()
		switch data {
		case pingData:
			c.goAwayFinal()
		case guardPing:
			c.pinged()
		}
		return nil
	}
	if !c.pings.Spend(pingRate) {
		return broken(h2.CodeCalm, "too many PINGs")
	}
	c.writer.queue(func(b []byte) []byte { return h2.AppendPing(b, h2.FlagAck, data) })
	return c.writer.owe()
}

func (c *conn) gotReset(pc h2.Piece) error {
	why := h2.Code(binary.BigEndian.Uint32(pc.Payload))
	c.mu.Lock()
	s := c.streams[pc.Stream]
	if s == nil {
		idle := c.isIdle(pc.Stream)
		c.unlock()
		if idle {
			return broken(h2.CodeProtocol, "RST_STREAM on idle stream %d", pc.Stream)
		}
		return c.meaningless()
	}
	if s.closed() {
		c.unlock()
		return c.meaningless()
	}
	if why == h2.CodeNone && s.gotEnd {
		// The peer has sent all and wants no more from us: no reset,
		// the app shall read to the end.
		s.unread = true
		c.sentEnd(s)
		c.unlock()
		s.stopReading()
		return nil
	}
	cause := c.resetError(s, why)
	if s.accepted {
		c.cut(s, cause)
		c.unlock()
		s.stopReading()
		c.touch(s)
		s.end = receiverCut
		return nil
	}
	c.end(s, cause) // no app waits for what came before
	c.unlock()
	if !c.client && !c.earlyReset.Spend(earlyResetRate) {
		return broken(h2.CodeCalm, "too many streams reset before their answer")
	}
	return nil
}

// resetError is how a stream ends that the peer reset; mu is held.
func (c *conn) resetError(s *Stream, why h2.Code) error {
	if why == h2.CodeRefused && c.client && !s.accepted {
		return &notTaken{fmt.Errorf("%w: peer refused the stream", ErrLimit), c.overfilled(s)}
	}
	return fmt.Errorf("%w: peer reset the stream: %v", ErrReset, why)
}

// leave is the state of an end that was announced.
type leave struct {
	farewell  farewell // ours
	askAgain  bool     // server: another ask came while ours was at its warning
	announced farewell // the peer's
	lastTaken uint32
	goodbye   string // what the peer's GOAWAY said, if it named an error
	barred    bool   // the error was that an identity is denied, ours or the peer's own
	// Client: since when a younger tunnel is wanted for open streams; zero: none is. One whose
	// dial began before proves by credentials that may have been replaced.
	movingSince time.Time
}

// farewell is how far an announcement has come.
type farewell uint8

const (
	farewellNone   farewell = iota
	farewellWarned          // a GOAWAY was sent that refuses no stream yet
	farewellSaid            // one was that says which stream was the last; more ask again
)

// owesGoAway reports that the last GOAWAY is yet to be sent; mu is held.
func (c *conn) owesGoAway() bool { return c.farewell == farewellWarned }

// goAway is a server's announcement that it takes no new streams. First it
// only warns, as requests may be on their way, and one round trip or a second
// later says which was the last it took. Whenever it is called again, it asks again for
// a younger tunnel, but not before that: the client takes the second for the end of the
// first. mu is held.
func (c *conn) goAway() {
	switch c.farewell {
	case farewellWarned:
		c.askAgain = true
		return
	case farewellSaid:
		c.sayLastTaken()
		return
	}
	c.farewell = farewellWarned
	c.farewellTimer = time.AfterFunc(goAwayDelay, func() {
		c.mu.Lock()
		defer c.unlock()
		c.goAwayFinal()
	})
	c.writer.say(func(b []byte) []byte {
		return h2.AppendPing(h2.AppendGoAway(b, h2.WindowLimit, h2.CodeNone, ""), 0, pingData)
	})
}

// goAwayFinal is the second. A third follows if another ask came meanwhile: a younger tunnel
// that the client made before may go by credentials that were replaced. The third names the
// same stream, for none may name a later one than those before (RFC 9113 §6.8). mu is held.
func (c *conn) goAwayFinal() {
	if c.farewell != farewellWarned || c.err != nil {
		return
	}
	c.farewell, c.lastTaken = farewellSaid, c.lastPeer
	c.sayLastTaken()
	if c.askAgain {
		c.sayLastTaken()
	}
}

// sayLastTaken is a GOAWAY that says which stream was the last; mu is held.
func (c *conn) sayLastTaken() {
	c.writer.say(func(b []byte) []byte { return h2.AppendGoAway(b, c.lastTaken, h2.CodeNone, "") })
}

// gotGoAway closes the tunnel to new streams. Streams that the peer did not take may
// be opened elsewhere. Those that it goes on with need a younger tunnel, also if this one
// takes no new streams anyway: only the peer knows how long its own end will live.
func (c *conn) gotGoAway(pc h2.Piece) error {
	last := binary.BigEndian.Uint32(pc.Payload) &^ (1 << 31)
	why := h2.Code(binary.BigEndian.Uint32(pc.Payload[4:]))
	c.mu.Lock()
	asks := c.err == nil && c.hears(last)
	c.takesNoMore()
	if why != h2.CodeNone {
		c.goodbye = fmt.Sprintf("%v %.200q", why, pc.Payload[8:])
		c.barred = why == h2.CodeSecurity
	}
	for _, s := range c.streams {
		if c.client && s.id > last {
			c.end(s, &notTaken{err: fmt.Errorf("%w: peer is going away", ErrReset)})
		}
	}
	heed := asks && c.neededLocked() && why == h2.CodeNone && c.hooks.move != nil && c.asks.Spend(askRate)
	if heed {
		c.movingSince = time.Now()
	}
	c.unlock()
	if heed {
		c.hooks.move(c)
	}
	return nil
}

// needed reports whether something is open in the tunnel that outlives it in a younger one.
func (c *conn) needed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && c.neededLocked()
}

// neededLocked is needed; mu is held.
func (c *conn) neededLocked() bool { return c.active > 0 || len(c.guards) > 0 }

// hears notes a GOAWAY that names the last stream. It reports whether the peer asks for
// a younger tunnel by it: the second of a pair only completes the first; mu is held.
func (c *conn) hears(last uint32) (asks bool) {
	asks = c.announced != farewellWarned
	c.announced = farewellSaid
	if asks && last == h2.WindowLimit {
		c.announced = farewellWarned
	}
	return asks
}
