// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrip is the shortest round trip that the kernel has seen on a tunnel's
// socket, of old: it does not change much. conn.mu guards it.
type roundTrip struct {
	socket syscall.RawConn
	last   time.Duration
	asked  time.Time
}

const roundTripAge = 10 * time.Second

// shortest asks the kernel, TCP_INFO's tcpi_min_rtt (Linux 4.9). Zero: unknown.
func (r *roundTrip) shortest(now time.Time) time.Duration {
	if r.socket != nil && now.Sub(r.asked) > roundTripAge {
		r.asked = now
		r.socket.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				r.last = time.Duration(info.Min_rtt) * time.Microsecond
			}
		})
	}
	return r.last
}

// idle is how long ago the kernel last sent data, for ever if it cannot tell. It
// sends none into a window that is closed, though it asks again and again.
func (r *roundTrip) idle() time.Duration {
	ago := time.Duration(math.MaxInt64)
	if r.socket != nil {
		r.socket.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				ago = time.Duration(info.Last_data_sent) * time.Millisecond
			}
		})
	}
	return ago
}

// tune prepares a tunnel's socket. What the kernel has not sent yet is kept
// short, so that frames in a hurry are not behind megabytes of others'. What the
// peer does not acknowledge breaks the connection as soon as it would be stuck for
// us, also when we have closed it already.
func tune(socket net.Conn) (r roundTrip) {
	s, ok := socket.(syscall.Conn)
	if !ok {
		return r
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return r
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stuckLimit.Milliseconds()))
	})
	return roundTrip{socket: raw}
}

// widened is the bytes by which the windows of all streams in this process are
// larger than at first.
var widened atomic.Int64

// grant returns to the peer what apps took, once that is most of a stream's
// window. Each WINDOW_UPDATE wakes both ends, so those of other streams come
// along; mu is held.
func (c *conn) grant(s *Stream) {
	if s.unacked < s.limit/4*3 || s.gotEnd || s.over || c.err != nil {
		return
	}
	c.widen(s)
	for _, s := range c.streams {
		if s.unacked >= s.limit/4 && !s.gotEnd {
			c.control = appendWindowUpdate(c.control, s.id, s.unacked)
			s.window += s.unacked
			s.unacked = 0
		}
	}
	c.kick()
}

// widen doubles a window that was used up within two round trips: it is what
// holds the stream back. mu is held.
func (c *conn) widen(s *Stream) {
	now := time.Now()
	pause := now.Sub(s.grantedAt)
	s.grantedAt = now
	if s.limit == largestWindow || pause > 2*c.rtt.shortest(now) {
		return
	}
	if widened.Add(int64(s.limit)) > widenedLimit {
		widened.Add(-int64(s.limit))
		return
	}
	s.unacked += s.limit
	s.limit *= 2
}

// narrow gives back what the window of a stream that is over was widened by.
func (s *Stream) narrow() { widened.Add(int64(streamWindow - s.limit)) }
