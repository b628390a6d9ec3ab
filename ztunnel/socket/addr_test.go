// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"net"
	"net/netip"
	"testing"
)

func TestAnIPv4AddressIsTheSameOnBothKindsOfSockets(t *testing.T) {
	want := netip.MustParseAddrPort("10.1.0.1:80")
	for _, ip := range []net.IP{net.IPv4(10, 1, 0, 1).To4(), net.IPv4(10, 1, 0, 1).To16()} {
		if got := AddrPort(&net.TCPAddr{IP: ip, Port: 80}); got != want {
			t.Errorf("%d bytes are %v, want %v", len(ip), got, want)
		}
	}
	if got := AddrPort(&net.UnixAddr{Name: "app.sock", Net: "unix"}); got.IsValid() {
		t.Errorf("a path is %v", got)
	}
}
