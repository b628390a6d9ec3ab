// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math/rand/v2"
	"time"
)

// What is open tries for a younger tunnel at the ticks of its own. After a few tries they
// become rare: a peer that drains asks for one with its listener closed, for hours.
const (
	moveTries        = 3                            // in the 10 s that the CA waits for tunnels to move
	movePause        = pingInterval/2 - time.Second // between these: a little less than from tick to tick
	longestMovePause = time.Minute
)

// backoff says when the tunnels of a key may try again, whichever ticks. Pool.mu guards it.
type backoff struct {
	tries     int
	pause     time.Duration
	notBefore time.Time
}

// due reports whether a try may be now, and counts it.
func (b *backoff) due(now time.Time) bool {
	if now.Before(b.notBefore) {
		return false
	}
	b.tries++
	if b.tries < moveTries {
		b.pause = movePause
	} else {
		b.pause = min(2*b.pause, longestMovePause)
	}
	b.notBefore = now.Add(b.pause - rand.N(b.pause/8)) // not all pools of a cluster at the same moment
	return true
}

// move is renew for what should leave old from now on: its tries begin anew.
func (p *Pool) move(key Key, old *conn) {
	p.mu.Lock()
	if t := p.keys[key]; t != nil {
		t.again = backoff{}
	}
	p.mu.Unlock()
	p.renew(key, old)
}

// moveAgain is renew for what should have left old before, unless it is too early.
func (p *Pool) moveAgain(key Key, old *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t := p.keys[key]; t != nil && t.dial == nil && t.again.due(time.Now()) {
		p.renewLocked(key, t, old)
	}
}

// moveFrom has what is open in tunnels move to one whose dial began at a moment or later. All
// know of it before the first of them dials, for its tunnel may do for the others, too.
func moveFrom(tunnels []*conn, since time.Time) {
	for _, c := range tunnels {
		c.moveSince(since)
	}
	for _, c := range tunnels {
		if c.moves() {
			c.hooks.move(c)
		}
	}
}

// moveSince notes that what is open should move.
func (c *conn) moveSince(since time.Time) {
	c.mu.Lock()
	defer c.unlock()
	if c.err == nil && c.neededLocked() && since.After(c.movingSince) {
		c.movingSince = since
	}
}

// moves reports whether a younger tunnel is still to be tried for.
func (c *conn) moves() bool {
	c.mu.Lock()
	defer c.unlock()
	return c.movesLocked()
}

// movesLocked is moves; mu is held.
func (c *conn) movesLocked() bool {
	return !c.movingSince.IsZero() && c.err == nil && c.neededLocked() && c.hooks.moveAgain != nil
}

// moved notes that a younger tunnel proved both ends until a moment.
func (c *conn) moved(younger *conn, until time.Time) {
	if !until.IsZero() && !time.Now().Before(until) {
		return // its root was dropped meanwhile
	}
	c.mu.Lock()
	defer c.unlock()
	if !younger.begun.Before(c.movingSince) {
		c.movingSince = time.Time{}
	}
}
