// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// clock is a tunnel's timers; conn.mu guards it.
type clock struct {
	ticker        *time.Timer
	halfway       *time.Timer // to the next tick, while there are streams; nil before
	expiry        *time.Timer // nil: the tick sees to it
	farewellTimer *time.Timer
	missed        int       // ticks in a row at which nothing had come since a PING
	usedAt        time.Time // when the last stream ended
	deadline      time.Time // when open streams end: until, or that of a younger tunnel; zero: never
	margin        time.Duration
}

// renewMargin is how long before the deadline a Pool opens a younger tunnel, and
// a Listener asks for one, at most: two attempts that run into all their time
// limits. Of short lives it is a quarter: over a few KB/s a handshake takes seconds.
const renewMargin = time.Minute

func (c *conn) startClock() {
	c.usedAt = time.Now()
	c.heardAt = c.usedAt // in the handshake
	c.ticker = time.AfterFunc(pingInterval, c.tick)
	c.setDeadline(c.deadline)
}

func (c *conn) stopClock() {
	for _, t := range []*time.Timer{c.ticker, c.halfway, c.expiry, c.farewellTimer} {
		if t != nil {
			t.Stop()
		}
	}
}

func (c *conn) used() { c.usedAt = time.Now() }

// tick looks after the tunnel every ten seconds: is the peer alive, does it read, is
// anybody using it, are the apps still there.
func (c *conn) tick() {
	c.mu.Lock()
	if c.err != nil {
		c.unlock()
		return
	}
	c.missed++
	if c.heard.Swap(false) {
		c.missed = 0
	}
	var silent, unmoved, idle []*Stream
	for _, s := range c.streams {
		watched, stands := c.writer.look(s)
		if stands {
			unmoved = append(unmoved, s)
		}
		switch {
		case !watched:
			silent = append(silent, s)
		case s.idles():
			idle = append(idle, s)
		}
	}
	if c.unused() && time.Since(c.usedAt) >= pingInterval {
		c.quiet.Store(true)
	}
	c.repayIdle(time.Now())
	c.grantTunnel() // another tunnel may have made room
	outlived := c.unused() && c.idleTimeout > 0 && time.Since(c.usedAt) >= c.idleTimeout
	why := c.deadFor(time.Now())
	expired := !c.deadline.IsZero() && !time.Now().Before(c.deadline)
	moves := c.movesLocked()
	if c.expiry == nil && !c.deadline.IsZero() {
		c.armExpiry()
	}
	if why == nil {
		c.writer.say(func(b []byte) []byte { return h2.AppendPing(b, 0, [8]byte{}) })
		c.ticker.Reset(pingInterval)
		c.armHalfway()
	}
	c.unlock()

	switch {
	case why != nil:
		c.fail(c.lost(why))
		c.giveUp()
	case expired: // the timer does not run while the machine sleeps
		c.expire()
	case outlived:
		c.retire()
	case moves:
		c.hooks.moveAgain(c)
	}
	for _, s := range silent {
		if s.appGone() {
			s.appBroke(errAppGone)
		}
	}
	for _, s := range unmoved {
		s.appFailed(s.broke)
	}
	for _, s := range idle {
		s.rest.Ask(s.toApp.app)
	}
}

// armHalfway has idle streams looked for between two ticks, too; mu is held.
func (c *conn) armHalfway() {
	switch {
	case len(c.streams) == 0:
	case c.halfway == nil:
		c.halfway = time.AfterFunc(pingInterval/2, c.lookForIdle)
	default:
		c.halfway.Reset(pingInterval / 2)
	}
}

// lookForIdle has the streams parked that were silent since the last look, and a younger
// tunnel tried again that none came of.
func (c *conn) lookForIdle() {
	var idle []*Stream
	c.mu.Lock()
	for _, s := range c.streams {
		if c.err == nil && c.writer.waits(s) && s.idles() {
			idle = append(idle, s)
		}
	}
	moves := c.movesLocked()
	c.unlock()
	if moves {
		c.hooks.moveAgain(c)
	}
	for _, s := range idle {
		s.rest.Ask(s.toApp.app)
	}
}

// waits reports that a stream's app has said all for now.
func (w *writer) waits(s *Stream) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.state == senderWaiting
}

// look reports whether a stream's pump would see its app go, and whether the stream is
// unmoved.
func (w *writer) look(s *Stream) (watched, unmoved bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return s.state == senderWaiting, s.unmoved()
}

// deadFor is why the tunnel is dead, nil if it is not; mu is held.
func (c *conn) deadFor(now time.Time) error {
	switch {
	case c.missed >= silentPings:
		return fmt.Errorf("no answer to PING in %v", silentPings*pingInterval)
	case c.stuckFor(now) >= stuckLimit:
		return fmt.Errorf("took nothing for %v", stuckLimit)
	}
	return nil
}

// stuckFor is how long nothing could be written though there is something: the
// peer does not read, or nothing reaches it. A slow way is not that. mu is held.
func (c *conn) stuckFor(now time.Time) time.Duration {
	since := c.writer.blockedSince()
	if since.IsZero() {
		return 0
	}
	waits := now.Sub(since)
	if waits < stuckPause {
		return waits
	}
	return min(waits, c.rtt.idle())
}

var errAppGone = errors.New("connection gone")

// setDeadline arms the timer that ends the tunnel with its certificates; mu is held.
func (c *conn) setDeadline(deadline time.Time) {
	c.deadline = deadline
	if c.expiry != nil {
		c.expiry.Stop()
		c.expiry = nil
	}
	if deadline.IsZero() {
		return
	}
	c.margin = min(renewMargin, time.Until(deadline)/4)
	// Not all pools of a cluster at the same moment.
	c.margin -= time.Duration(rand.Int64N(int64(max(c.margin/4, 1))))
	c.armExpiry()
}

// armExpiry arms the timer if there is something to do before the tick after the
// next. So a tunnel has no timer but its ticker for most of its life; mu is held.
func (c *conn) armExpiry() {
	if next := c.nextExpiry(); next <= 2*pingInterval {
		c.expiry = time.AfterFunc(next, c.expire)
	}
}

// nextExpiry is the time until expire has something to do; mu is held.
func (c *conn) nextExpiry() time.Duration {
	left := time.Until(c.deadline)
	if left > c.margin {
		return left - c.margin
	}
	return min(left, max(c.margin/4, time.Millisecond)) // try again if it fails
}

// expire ends a tunnel whose certificates have run out. Shortly before, a Pool
// opens a younger one if streams are open, and a Listener asks its peer to, by
// GOAWAY. That puts the deadline off. Until then both go on trying, whatever they did
// before: the tunnel may have been retired long ago, and the peer's clock be late.
func (c *conn) expire() {
	c.mu.Lock()
	if c.err != nil || c.deadline.IsZero() {
		c.unlock()
		return
	}
	left := time.Until(c.deadline)
	near := left <= c.margin
	renew := near && c.client && !c.unused()
	if near && left > 0 && !renew {
		c.retireLocked()
	}
	if left > 0 && c.expiry != nil {
		c.expiry.Reset(c.nextExpiry())
	}
	c.unlock()
	switch {
	case left <= 0:
		c.fail(fmt.Errorf("%w: certificates of the tunnel to %v ran out", ErrExpired, c.remote))
	case renew && c.hooks.renew != nil:
		c.hooks.renew(c)
	}
}

// extend lets the open streams live until a younger tunnel between the same
// two ends would have to end: there both have proved themselves again.
func (c *conn) extend(younger *conn) {
	until, again := younger.holdsUntil()
	c.extendTo(until, again)
	c.moved(younger, until)
}

// extendTo is extend to until when the younger tunnel holds, and how to ask that again.
func (c *conn) extendTo(until time.Time, again asked) {
	if !until.IsZero() && !time.Now().Before(until) {
		return // its root was dropped meanwhile
	}
	c.mu.Lock()
	defer c.unlock()
	if again != nil {
		c.grounds.add(again)
	}
	if c.err != nil || c.deadline.IsZero() {
		return
	}
	if until.IsZero() || until.After(c.deadline) {
		c.setDeadline(until)
	}
}
