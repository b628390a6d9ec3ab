// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"syscall"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// tellDead tells o.Dead of a destination that could not be reached, if the next
// connect() to it would meet the same: nobody listens there, or no route leads
// there. A service with several endpoints is not dead because one is. It is
// called before the app is reset, whose next attempt must find it told.
func (o Outbound) tellDead(c *connection, dst netip.AddrPort, d *workload.Destination, err error) {
	if o.Dead != nil && c.ctx.Err() == nil && (d.Service == nil || d.Only) && isDead(err) {
		o.Dead(dst)
	}
}

// noWay is what connect(2) answers where nobody listens or no route leads.
var noWay = []error{
	syscall.ECONNREFUSED, syscall.EHOSTUNREACH, syscall.ENETUNREACH, syscall.EHOSTDOWN, syscall.ENETDOWN,
	syscall.ETIMEDOUT, os.ErrDeadlineExceeded, context.DeadlineExceeded,
}

// isDead reports that nobody answered at a destination. A policy, a failed
// proof of identity or a shortage is something else: the next attempt must ask
// again, and be recorded.
func isDead(err error) bool {
	if wordOf(err) != Dial {
		return false
	}
	var status *hbone.StatusError
	if errors.As(err, &status) {
		return status.Code == http.StatusServiceUnavailable // the peer did not reach its app
	}
	if errors.Is(err, workload.ErrNoEndpoint) {
		return true
	}
	for _, e := range noWay {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
