// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// sample is one connection, in nanoseconds.
type sample struct {
	Connect int64 // connect() alone
	Cycle   int64 // socket(), connect(), accept(), both close()
}

// warmup is how many connections go before those that count: the worker has
// slept, and another row's code and data are in the caches.
const warmup = 32

// course is where to connect, and the listener at which it ends.
type course struct {
	listener int // blocking, unknown to Go's poller: nobody is woken by a connect
	to       netip.AddrPort
}

// run opens n connections, one after the other, and resets them, so that no
// port stays in TIME_WAIT. It runs on a locked thread and enters the kernel
// without telling the scheduler: nothing of Go is in the time.
//
// On loopback the whole handshake happens within connect(), with both ends'
// programs; the connection is in the accept queue when it returns.
func (c course) run(n int) ([]sample, error) {
	samples := make([]sample, warmup+n)
	four, six := c.sockaddr()
	family, sa, size := unix.AF_INET, unsafe.Pointer(&four), unsafe.Sizeof(four)
	if c.to.Addr().Is6() {
		family, sa, size = unix.AF_INET6, unsafe.Pointer(&six), unsafe.Sizeof(six)
	}
	for i := range samples {
		start := time.Now()
		fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("socket", err)
		}
		before := time.Now()
		_, _, errno := unix.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(sa), size)
		after := time.Now()
		if errno != 0 {
			unix.Close(fd)
			return nil, fmt.Errorf("connect to %v: %w", c.to, errno)
		}
		accepted, _, errno := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(c.listener), 0, 0, unix.SOCK_CLOEXEC, 0, 0)
		if errno != 0 {
			unix.Close(fd)
			return nil, os.NewSyscallError("accept4", errno)
		}
		if err := reset(fd); err != nil {
			return nil, err
		}
		unix.Close(int(accepted))
		samples[i] = sample{Connect: int64(after.Sub(before)), Cycle: int64(time.Since(start))}
	}
	return samples[warmup:], nil
}

// sockaddr returns the address in the form of either family.
func (c course) sockaddr() (four unix.RawSockaddrInet4, six unix.RawSockaddrInet6) {
	port := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, c.to.Port()))
	if c.to.Addr().Is6() {
		return four, unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: c.to.Addr().As16()}
	}
	return unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: c.to.Addr().As4()}, six
}

func reset(fd int) error {
	defer unix.Close(fd)
	err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return os.NewSyscallError("setsockopt(SO_LINGER)", err)
}
