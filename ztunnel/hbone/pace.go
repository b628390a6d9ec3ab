// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// A frame in a hurry, a CONNECT or its answer, goes ahead of all DATA that is not
// packed yet, but behind the batch under way and what the kernel has not sent.
// Where a path moves a few KB/s, half a megabyte of that would be minutes: so both
// are kept to what the path moves in a moment.
const (
	aheadTime  = 250 * time.Millisecond
	leastAhead = 8 << 10 // bytes: less would be more headers than data

	// A path that is long may be slow too, until it is known.
	longPath   = 5 * time.Millisecond
	aheadFirst = 16 << 10
)

// pace is how much may be ahead of a frame in a hurry; writer.mu guards it.
type pace struct {
	ahead int // bytes of a batch, and as many that the kernel has not sent
}

// startPace is that of a tunnel of which nothing is known but its round trip.
func startPace(r *roundTrip) pace {
	if r.shortest(time.Now()) < longPath {
		return pace{unsentLimit}
	}
	r.limitUnsent(aheadFirst)
	return pace{aheadFirst}
}

// mostAhead is how much a batch may hold. It is little where the pod holds much: peers
// that read nothing have it hold one batch for each of their tunnels; mu is held.
func (w *writer) mostAhead() int {
	if w.c.memory.halved() {
		return min(w.ahead, leastAhead)
	}
	return w.ahead
}

// keepPace learns from a batch of n bytes that a full socket took in that time:
// it took as much as the path moved meanwhile. mu is held.
func (w *writer) keepPace(n int, took time.Duration) {
	ahead := w.ahead
	switch {
	case took > aheadTime:
		ahead = min(ahead, max(int(float64(n)*float64(aheadTime)/float64(took)), leastAhead))
	case took < aheadTime/4:
		ahead = min(2*ahead, unsentLimit)
	}
	if ahead != w.ahead {
		w.ahead = ahead
		w.c.rtt.limitUnsent(ahead)
	}
}

// limitUnsent makes the kernel take no more than n bytes before it sends some.
func (r *roundTrip) limitUnsent(n int) {
	if r.socket != nil {
		socket.LimitUnsent(r.socket, n)
	}
}
