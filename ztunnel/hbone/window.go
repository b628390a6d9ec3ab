// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/hbone/h2"
)

// What a peer may send is bounded three times.
//
//   - A stream's window is small at first. It doubles while the app takes what comes
//     quickly, halves while it does not, and is not granted again before the app took
//     the bytes. So a stream holds no more than its window, and that is small if its
//     app does not read.
//   - The tunnel's window is granted again as bytes leave the wire, whatever becomes
//     of them: no stream waits for another's app. It grows where it is used up
//     quickly, or within two round trips.
//   - Memory bounds what the streams of all tunnels hold and may get.

const (
	widenPause  = 100 * time.Millisecond // for 3/4 of a stream's window, or all of a tunnel's: then it doubles, a stream's up to wideWindow
	narrowPause = time.Second            // for the same, in which case it halves
)

// grant returns to the peer what apps took, once that is most of a stream's
// window. Each WINDOW_UPDATE wakes both ends, so those of other streams come
// along; mu is held.
func (c *conn) grant(s *Stream) {
	if s.unacked < s.limit/4*3 || s.gotEnd || s.over || c.err != nil {
		return
	}
	now := time.Now()
	for _, s := range c.streams {
		if s.unacked >= s.limit/4 && !s.gotEnd {
			c.fit(s, now)
			c.writer.queue(func(b []byte) []byte { return h2.AppendWindowUpdate(b, s.id, s.unacked) })
			s.window += s.unacked
			s.unacked = 0
		}
	}
	c.writer.wake()
}

// fit changes the size of a stream's window to what its app makes of it; mu is held.
func (c *conn) fit(s *Stream, now time.Time) {
	pause := min(now.Sub(s.grantedAt), time.Minute) * time.Duration(s.limit/4*3) / time.Duration(s.unacked)
	s.grantedAt = now
	switch {
	case pause > narrowPause || !c.cover(s):
		c.narrow(s)
	case s.limit < wideWindow && pause <= widenPause,
		s.limit < widestWindow && pause <= 2*c.rtt.shortest(now): // it is the window that holds the stream back
		c.widen(s)
	}
}

// widen doubles a stream's window, if Memory lends the bytes; mu is held.
func (c *conn) widen(s *Stream) {
	if c.memory.lend(c.payer, s.limit) {
		s.lent += s.limit
		s.unacked += s.limit
		s.limit *= 2
	}
}

// narrow halves a stream's window, by not granting all that was taken; mu is held.
func (c *conn) narrow(s *Stream) {
	half := s.limit / 2
	if half < streamWindow || s.unacked <= half {
		return
	}
	s.unacked -= half
	s.limit = half
	c.repay(s, s.lent-(s.limit-streamWindow))
}

// cover has Memory lend again what it lent before the stream fell silent or stalled. It
// reports false if there is no more to be had; mu is held.
func (c *conn) cover(s *Stream) bool {
	missing := s.limit - streamWindow - s.lent
	if missing > 0 {
		if !c.memory.lend(c.payer, missing) {
			return false
		}
		s.lent += missing
	}
	return true
}

// repay gives back some of what Memory lent to a stream; mu is held.
func (c *conn) repay(s *Stream, n int) {
	if n > 0 {
		s.lent -= n
		c.memory.repay(c.payer, n)
	}
}

// repayIdle gives back what was lent to streams that were granted nothing since the last
// tick or longer. Of one that is silent that is all. Its peer may still send it: that so
// many do so at once, and then all their apps read nothing, is left to Memory's last
// means. Of one whose app does not read it is what the peer has sent, for that is held.
// mu is held.
func (c *conn) repayIdle(now time.Time) {
	for _, s := range c.streams {
		if now.Sub(s.grantedAt) < pingInterval {
			continue
		}
		unsent := 0
		if s.held > 0 {
			unsent = max(s.window-streamWindow, 0)
		}
		c.repay(s, s.lent-unsent)
	}
}

// grantTunnel grants the tunnel's window again as bytes leave the wire, whoever they
// are for. The exception is a tunnel that itself holds much for slow apps of a pod
// that is over its share of Memory; mu is held.
func (c *conn) grantTunnel() {
	r := &c.receiving
	if r.window > r.limit/4*3 || c.err != nil || c.held > streamWindow && c.memory.overdrawn() && c.holdsMuch() {
		return
	}
	c.fitTunnel(time.Now())
	n := r.limit - r.window
	if n < r.limit/4 {
		return
	}
	c.writer.say(func(b []byte) []byte { return h2.AppendWindowUpdate(b, 0, n) })
	r.window += n
}

// fitTunnel changes the size of the tunnel's window. What is in it may come for apps
// that do not read, when it is too late to say no: so it is large only where much
// comes, or where it holds all streams back, and the pod holds little. Where much
// comes, a small one would wake both ends for a WINDOW_UPDATE again and again. mu is
// held.
func (c *conn) fitTunnel(now time.Time) {
	r := &c.receiving
	pause := min(now.Sub(r.grantedAt), time.Minute) * time.Duration(r.limit) / time.Duration(r.limit-r.window)
	r.grantedAt = now
	switch {
	case c.memory.halved():
		r.limit = tunnelWindow
	case pause > narrowPause:
		r.limit = max(r.limit/2, tunnelWindow)
	case pause <= max(widenPause, 2*c.rtt.shortest(now)):
		r.limit = min(2*r.limit, largestTunnelWindow)
	}
}
