// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// partial is what a tunnel's reader has of a frame that is not DATA, or of a header
// block, and waits for the rest of. A peer can say nothing else meanwhile, but that a
// byte now and then keeps its tunnel alive. DATA needs no such care: what comes of it
// goes to its stream, and the stream's window bounds it.
type partial struct {
	awaited bool // by a deadline, since it began
	armed   bool // the deadline is
	counted int  // bytes of memory that it holds, as Memory knows
}

// awaitRest counts what a read left unfinished, and bounds the time in which it may be
// finished. Before the first SETTINGS there is a deadline already.
func (c *conn) awaitRest() {
	c.countPartial(c.in.Held() + cap(c.block))
	unfinished := c.in.Unfinished()
	switch {
	case !c.settledSeen:
	case unfinished && !c.awaited:
		c.readDeadline(time.Now().Add(headerTimeout))
		c.awaited, c.armed = true, true
	case !unfinished && c.armed:
		c.readDeadline(time.Time{})
		c.armed, c.young = false, false
	}
}

func (c *conn) countPartial(held int) {
	if held != c.counted {
		c.memory.hold(held - c.counted)
		c.counted = held
	}
}

// dropPartial forgets what will not be finished, as nothing is read any more.
func (c *conn) dropPartial() {
	c.in, c.block = h2.Parser{}, nil
	c.countPartial(0)
}
