// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// roundTrip is what the kernel knows of a tunnel's socket: the shortest round trip
// that it has seen, of old, as that does not change much, and how it gets on. conn.mu
// guards it.
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

// acknowledged is how long ago the peer's kernel last acknowledged anything, TCP_INFO's
// tcpi_last_ack_recv; for ever if ours cannot tell.
func (r *roundTrip) acknowledged() time.Duration {
	ago := time.Duration(math.MaxInt64)
	if r.socket != nil {
		r.socket.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				ago = time.Duration(info.Last_ack_recv) * time.Millisecond
			}
		})
	}
	return ago
}

// unread reports that the kernel holds what the peer sent and we have yet to read.
func (r *roundTrip) unread() bool {
	n := 0
	if r.socket != nil {
		r.socket.Control(func(fd uintptr) { n, _ = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	}
	return n > 0
}

// tune prepares a tunnel's socket. What the kernel has not sent yet is kept
// short, so that frames in a hurry are not behind megabytes of others'. What the
// peer does not acknowledge breaks the connection as soon as it would be stuck for
// us, also when we have closed it already.
func tune(conn net.Conn) (r roundTrip) {
	s, ok := conn.(syscall.Conn)
	if !ok {
		return r
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return r
	}
	socket.LimitUnsent(raw, unsentLimit)
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(stuckLimit.Milliseconds()))
	})
	return roundTrip{socket: raw}
}
