// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"math"
	"net"
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
