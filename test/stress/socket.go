// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

func addrPort(a net.Addr) netip.AddrPort { return a.(*net.TCPAddr).AddrPort() }

// bound gives a socket its port before it connects, and returns the port.
func bound(tell func(netip.AddrPort)) func(fd int) error {
	return func(fd int) error {
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()}); err != nil {
			return err
		}
		name, err := unix.Getsockname(fd)
		if err == nil {
			tell(netip.AddrPortFrom(loopback, uint16(name.(*unix.SockaddrInet4).Port)))
		}
		return err
	}
}

// urgent sends one byte out of band, which the mesh carries in band.
func urgent(conn *net.TCPConn, b byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	werr := raw.Write(func(fd uintptr) bool {
		err = unix.Sendto(int(fd), []byte{b}, unix.MSG_OOB|unix.MSG_NOSIGNAL, nil)
		return err != unix.EAGAIN
	})
	if werr != nil {
		return werr
	}
	return err
}
