// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"net"
	"net/netip"
)

// AddrPort is one end of a TCP connection, or where a listener listens. An IPv4
// address is never in its IPv6 form, so that addresses can be compared. It is
// zero if a is not TCP's.
func AddrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
