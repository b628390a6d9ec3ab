// SPDX-License-Identifier: Apache-2.0

package hbone

import "time"

// move is retire for a tunnel that what is open in it should leave now. A client opens a
// younger one, and a server asks for it, though it may have asked before for another reason.
func (c *conn) move() {
	c.mu.Lock()
	c.retireLocked()
	moves := c.client && c.err == nil && c.neededLocked()
	if moves {
		c.movingSince = time.Now()
	}
	c.unlock()
	if moves {
		c.hooks.renew(c)
	}
}

// movesLocked reports whether a younger tunnel is still to be tried for; mu is held.
func (c *conn) movesLocked() bool {
	return !c.movingSince.IsZero() && c.err == nil && c.neededLocked() && c.hooks.renew != nil
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
