// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// On one machine the kernel carries a segment to its receiver, and the answer back,
// within the call that sends it. So connect(2) and shutdown(2) take 20 µs and more,
// which is when Go's monitor looks for a call to take the processor from; and a monitor
// that found one looks again every 20 µs. Neither call waits for anybody.

// Connect is connect(2) of a non-blocking TCP socket of to's family. It returns
// EINPROGRESS unless the connection broke at once.
func Connect(fd uintptr, to netip.AddrPort) error { return withAddress(syscall.SYS_CONNECT, fd, to) }

// Bind is bind(2) of a socket of at's family.
func Bind(fd uintptr, at netip.AddrPort) error { return withAddress(syscall.SYS_BIND, fd, at) }

func withAddress(call, fd uintptr, at netip.AddrPort) error {
	var errno syscall.Errno
	if at.Addr().Is4() {
		sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Port: wire(at.Port()), Addr: at.Addr().As4()}
		_, _, errno = syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
	} else {
		sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: wire(at.Port()), Addr: at.Addr().As16()}
		_, _, errno = syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	}
	if errno != 0 {
		return errno
	}
	return nil
}

// wire is a port in the order of the network.
func wire(port uint16) uint16 {
	b := [2]byte{byte(port >> 8), byte(port)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// CloseWrite says that no more comes, by a FIN behind what was written. It fails if the
// connection broke or was closed here.
func CloseWrite(raw syscall.RawConn) error {
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = syscall.RawSyscall(syscall.SYS_SHUTDOWN, fd, syscall.SHUT_WR, 0)
	}); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("shutdown", errno)
	}
	return nil
}

// WriteAll is the Write of a connection, by a call that Go's monitor does not see if
// the connection is a socket.
func WriteAll(conn net.Conn, p []byte) (n int, err error) {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return conn.Write(p)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		for n < len(p) {
			m, err := Write(fd, p[n:])
			n += m
			if err == syscall.EAGAIN {
				return false
			}
			if err != nil {
				failed = os.NewSyscallError("write", err)
				return true
			}
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}
