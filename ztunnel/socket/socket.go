// SPDX-License-Identifier: Apache-2.0

// Package socket reads and writes sockets that are known not to wait.
//
// A system call by way of package syscall tells Go's scheduler that it may take
// long. The first one after the process was idle thereby wakes the scheduler's
// monitor, a thread that then runs beside ours: a futex call and often an
// interrupt to another processor for every message of an otherwise idle
// connection. Calls on non-blocking sockets take microseconds and need no monitor:
// two relays in a row answered 64 bytes within 70 to 105 µs instead of 90 to 190.
package socket

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// most is the segments that Readv and Writev take at once.
const most = 64

// Read is read(2) of a non-blocking socket. It returns EAGAIN if there is
// nothing to read, and 0 without error at the end of data.
func Read(fd uintptr, p []byte) (int, error) {
	for {
		if n, err := read(fd, p); err != syscall.EINTR {
			return n, err
		}
	}
}

// Write is write(2) of a non-blocking socket. It returns EAGAIN if there is no
// room at all.
func Write(fd uintptr, p []byte) (int, error) {
	for {
		if n, err := write(fd, p); err != syscall.EINTR {
			return n, err
		}
	}
}

// Readv is Read into up to 64 segments, none of them empty.
func Readv(fd uintptr, v [][]byte) (int, error) {
	if len(v) == 1 {
		return Read(fd, v[0])
	}
	for {
		if n, err := readv(fd, v[:min(len(v), most)]); err != syscall.EINTR {
			return n, err
		}
	}
}

// Writev is Write of up to 64 segments, none of them empty.
func Writev(fd uintptr, v [][]byte) (int, error) {
	if len(v) == 1 {
		return Write(fd, v[0])
	}
	for {
		if n, err := writev(fd, v[:min(len(v), most)]); err != syscall.EINTR {
			return n, err
		}
	}
}

// ReadInline is Readv of a socket with SO_OOBINLINE. Where the next byte was sent
// as urgent, the kernel looks for a signal first and, if one is pending, says that
// there is nothing (Linux 6.18, tcp_recvmsg_locked). Go sends signals to preempt,
// and for a byte that has arrived the poller wakes nobody a second time.
func ReadInline(fd uintptr, v ...[]byte) (int, error) {
	for {
		n, err := Readv(fd, v)
		if err != syscall.EAGAIN || !Holds(fd) {
			return n, err
		}
	}
}

// Holds reports that a TCP connection has bytes to read.
func Holds(fd uintptr) bool {
	n, err := number(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// Readable reports that a read would not return EAGAIN: there are bytes, the end of data
// or an error. It costs half of a read that finds nothing, since poll(2) of a TCP socket
// takes no lock. In doubt, as under a pending signal, it is true.
func Readable(fd uintptr) bool {
	fds := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	var now unix.Timespec // not to wait
	n, _, errno := syscall.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&fds)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
	return n != 0 || errno != 0
}

// Unacked is how many of the bytes that were written to a TCP connection the
// other end's kernel has not acknowledged: what it still might lose. A FIN counts
// as one. Of a connection that broke they stay as many as they were then.
func Unacked(fd uintptr) (int, error) { return number(fd, unix.SIOCOUTQ) }

// number asks a socket for what an ioctl(2) tells by an int.
func number(fd, what uintptr) (int, error) {
	var n int32
	_, _, errno := syscall.RawSyscall(syscall.SYS_IOCTL, fd, what, uintptr(unsafe.Pointer(&n)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// Broke reports that a TCP connection is no more: both sides have closed it, or
// it was reset.
func Broke(fd uintptr) bool {
	const closed = 7 // TCP_CLOSE of the kernel's net/tcp_states.h
	var state uint8  // the first field of TCP_INFO
	length := uint32(unsafe.Sizeof(state))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, unix.IPPROTO_TCP, unix.TCP_INFO, uintptr(unsafe.Pointer(&state)), uintptr(unsafe.Pointer(&length)), 0)
	return errno != 0 || state == closed
}

// Reset ends a TCP connection by a reset, and at once: close(2) waits in package
// net until nobody uses the descriptor.
func Reset(fd uintptr) error {
	nowhere := syscall.RawSockaddr{Family: syscall.AF_UNSPEC}
	_, _, errno := syscall.Syscall(syscall.SYS_CONNECT, fd, uintptr(unsafe.Pointer(&nowhere)), unsafe.Sizeof(nowhere))
	if errno != 0 {
		return errno
	}
	return nil
}
