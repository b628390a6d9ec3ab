// SPDX-License-Identifier: Apache-2.0

package record

import "github.com/culvert-mesh/culvert/ztunnel/socket"

// Rest waits until Receive has something to do, and meanwhile keeps no buffer,
// and of the keys only the secrets that they are made of. What Receive has
// returned is void. Receive is to be called even after an error. A net.Conn that
// is no socket cannot rest: then Rest returns at once.
func (c *Conn) Rest() error {
	if c.raw == nil {
		return nil
	}
	c.resting.Store(true)
	defer c.resting.Store(false)
	if c.wmu.TryLock() { // or else somebody sends
		c.doneSending()
	}
	if !c.layDown() {
		return nil
	}
	return c.raw.Read(socket.Readable)
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
