// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// TCP is what the kernel measured on a connection.
type TCP struct {
	RTT           uint32 `json:"rttMicroseconds"`    // smoothed
	MinRTT        uint32 `json:"minRTTMicroseconds"` // the least so far
	Retransmitted uint32 `json:"retransmitted"`      // segments, since it was made
	Lost          uint32 `json:"lost"`               // segments now
}

// Measure asks the kernel (TCP_INFO). A connection that is closed has the zero TCP.
func Measure(raw syscall.RawConn) (t TCP) {
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
			t = TCP{RTT: info.Rtt, MinRTT: info.Min_rtt, Retransmitted: info.Total_retrans, Lost: info.Lost}
		}
	})
	return t
}
