// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"os"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// departure is the end of a tunnel; conn.mu guards it.
//
// A socket that is closed while TCP still holds bytes loses them as soon as the
// peer sends anything: its kernel gets a reset, and so does ours. So after the last
// frame and the close_notify the socket stays until the peer has ended its side
// and acknowledged all of ours. That may take long on a slow path; it ends before
// only if nothing gets on for a while, or somebody wants it to (cutOff).
type departure struct {
	cutFor  error     // why the tunnel may stay no longer than cutAt; nil: it may
	cutAt   time.Time // zero: no such moment
	aborted error     // why no stream waits any more, not even for its app; nil: they do
	reached int64     // bytes that were known to have arrived
	stirred time.Time // when they became more
}

// cutOff lets the tunnel's end take no longer than patience, for err. What has
// not arrived by then is not reported as if it had; mu is held.
func (c *conn) cutOff(err error, patience time.Duration) {
	if c.cutFor == nil {
		c.cutFor, c.cutAt = err, time.Now().Add(patience)
		c.hurry()
	}
}

// giveUp closes a socket on which nothing comes any more; mu is not held.
func (c *conn) giveUp() {
	c.mu.Lock()
	defer c.unlock()
	c.cutOff(c.err, 0)
	c.wire.SetReadDeadline(time.Unix(1, 0))
}

// stays reports that the reader should go on although its read missed a deadline:
// the tunnel hangs up, and gets on with it.
func (c *conn) stays(err error) bool {
	c.mu.Lock()
	defer c.unlock()
	if !errors.Is(err, os.ErrDeadlineExceeded) || c.err == nil || c.broken || c.outOfTime() {
		return false
	}
	next := time.Now().Add(hangUpTimeout)
	if !c.cutAt.IsZero() && c.cutAt.Before(next) {
		next = c.cutAt
	}
	c.wire.SetReadDeadline(next)
	return true
}

// outOfTime reports that nothing gets on any more, or that cutAt has come; mu
// is held.
func (c *conn) outOfTime() bool {
	now, patience := time.Now(), socket.Standstill
	if arrived := c.arrived(); arrived > c.reached {
		c.reached, c.stirred = arrived, now
	}
	if c.delivered() {
		patience = lastWord
	}
	return now.Sub(c.stirred) >= patience || !c.cutAt.IsZero() && !now.Before(c.cutAt)
}

// depart closes the socket, of which nothing more can be read, when nothing can
// be lost by that: what was written was acknowledged, or never will be.
func (c *conn) depart() {
	c.mu.Lock()
	for pause := lastFewPauses; !c.delivered() && !c.outOfTime() && !c.dead(); pause = min(2*pause, longestProofPause) {
		c.prove()
		c.unlock()
		time.Sleep(pause)
		c.mu.Lock()
	}
	c.prove()
	c.closed, c.finally = true, c.arrived()
	for len(c.unproven) > 0 {
		c.disown(c.unproven[0], c.unheard())
	}
	if c.prover != nil {
		c.prover.Stop()
	}
	c.unlock()
	c.wire.Close()
}

// delivered reports that the peer's TCP has acknowledged all that was to be
// written; mu is held.
func (c *conn) delivered() bool {
	return !c.torn && c.writer.done() && c.arrived() >= int64(c.wire.Written())
}

// dead reports that there is no connection any more that could acknowledge
// anything, and that all was counted which it took: a write that is under way has yet to
// say how much went out, and would make arrived too little; mu is held.
func (c *conn) dead() bool {
	if c.writer.busy() {
		return false // its write fails at once
	}
	dead := c.torn
	if c.rtt.socket != nil {
		err := c.rtt.socket.Control(func(fd uintptr) { dead = dead || socket.Broke(fd) })
		dead = dead || err != nil
	}
	return dead
}
