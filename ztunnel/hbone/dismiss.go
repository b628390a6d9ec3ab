// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// dismissal is an idle tunnel that was asked to make room for others.
type dismissal struct {
	c  *conn
	at time.Time
}

var (
	errOvergrown = broken(h2.CodeCalm, "more tunnels than others are left with")
	errOutlived  = broken(h2.CodeCalm, "too many tunnels that take no new streams")
)

// dismiss asks an idle tunnel to end, by GOAWAY: requests that are on their way
// are served. The caller calls what it returns without locks.
func (ce *Census) dismiss(c *conn) func() {
	ce.leave(c)
	ce.dismissed = append(ce.dismissed, dismissal{c, time.Now()})
	return c.retire
}

// expel ends a tunnel, whatever is open in it. The caller calls what it returns without
// locks.
func (ce *Census) expel(c *conn, why error) func() {
	ce.undismiss(c)
	ce.leave(c)
	return func() { c.abort(why) }
}

// recount takes those that were dismissed leaveTimeout ago and are still there for
// tunnels that stay: they have streams by now, and these may stay open for weeks.
func (ce *Census) recount(now time.Time) {
	for len(ce.dismissed) > 0 && now.Sub(ce.dismissed[0].at) > leaveTimeout {
		ce.undismiss(ce.dismissed[0].c)
	}
}

// dismissedOf is the tunnel of a payer that was asked to go first, nil if none was.
func (ce *Census) dismissedOf(payer spiffeid.ID) *conn {
	for _, d := range ce.dismissed {
		if d.c.payer == payer {
			return d.c
		}
	}
	return nil
}

// leave counts a tunnel among those that leave.
func (ce *Census) leave(c *conn) {
	if !c.dismissed {
		c.dismissed = true
		ce.holders[holderOf(c)].leaving++
		ce.leaving++
	}
}

// undismiss counts a tunnel among those that leave no more.
func (ce *Census) undismiss(c *conn) {
	if c.dismissed {
		c.dismissed = false
		ce.holders[holderOf(c)].leaving--
		ce.leaving--
		ce.dismissed = slices.DeleteFunc(ce.dismissed, func(d dismissal) bool { return d.c == c })
	}
}
