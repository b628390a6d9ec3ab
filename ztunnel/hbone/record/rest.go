// SPDX-License-Identifier: Apache-2.0

package record

import "github.com/culvert-mesh/culvert/ztunnel/socket"

// Rest has ready called when there is something to Receive, or at socket.Wake.
// Until Receive is called then, the Conn keeps no buffer, and of the keys only the
// secrets that they are made of; what Receive has returned is void. Without a
// Ticket there is no waiting: Receive is to be called now.
func (c *Conn) Rest(ready func()) socket.Ticket {
	if c.raw == nil || !c.layDown() {
		return 0
	}
	c.resting.Store(true)
	if c.wmu.TryLock() { // or else somebody sends
		c.doneSending()
	}
	ticket, err := socket.Wait(c.raw, ready)
	if err != nil {
		return 0
	}
	return ticket
}

// layDown reports whether nothing is in hand that Receive would not wait for.
func (c *Conn) layDown() bool {
	c.rmu.Lock()
	defer c.rmu.Unlock()
	if c.rerr != nil || len(c.rest) > 0 || c.r < c.w {
		return false
	}
	c.settle()
	c.in.sleep()
	return true
}

// getUp ends a Rest; rmu is held.
func (c *Conn) getUp() {
	c.resting.Store(false)
	if c.rerr != nil {
		return
	}
	if err := c.in.wake(); err != nil {
		c.endReceiving(err)
	}
}
