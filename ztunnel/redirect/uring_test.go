// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What package unix lacks of <linux/io_uring.h>.
const (
	uringEntries    = 2
	uringOpConnect  = 16
	uringAsync      = 1 << 4 // leave it to a worker of the kernel at once
	uringGetEvents  = 1
	uringOffsetSQEs = 0x10000000
	uringOffsetCQ   = 0x8000000
)

type uringParams struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFd uint32

	_  [3]uint32
	sq struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

func TestConnectsByIOUringAreSteered(t *testing.T) {
	probe := uringParams{}
	if fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&probe)), 0); errno != 0 {
		t.Skipf("needs io_uring: %v", errno)
	} else {
		unix.Close(int(fd))
	}
	w := newWorld(t)
	p := w.enrolled()
	for _, flags := range []byte{0, uringAsync} {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("flags %#x/%s", flags, family(six)), func(t *testing.T) {
				far, af := netip.AddrPortFrom(far4, 4242), unix.AF_INET
				if six {
					far, af = netip.AddrPortFrom(far6, 4242), unix.AF_INET6
				}
				connect := func(family int, _ unix.Sockaddr) (int, error) {
					fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
					if err != nil {
						return -1, err
					}
					return fd, uringConnect(fd, flags, rawSockaddr(far))
				}
				checkSteered(t, p, connect, af, sockaddr(far), far, true, false)
			})
		}
	}
}

// rawSockaddr is a sockaddr_in or sockaddr_in6.
func rawSockaddr(to netip.AddrPort) []byte {
	family := uint16(unix.AF_INET)
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	sa := binary.NativeEndian.AppendUint16(nil, family)
	sa = binary.BigEndian.AppendUint16(sa, to.Port())
	if to.Addr().Is6() {
		sa = append(sa, 0, 0, 0, 0) // flow information
	}
	sa = append(sa, to.Addr().AsSlice()...)
	return append(sa, make([]byte, 8)...) // scope, or padding
}

// uringConnect connects by a ring of its own, and waits until it is done.
func uringConnect(socket int, flags byte, sa []byte) error {
	var p uringParams
	r, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, uringEntries, uintptr(unsafe.Pointer(&p)), 0)
	if errno != 0 {
		return os.NewSyscallError("io_uring_setup", errno)
	}
	ring := int(r)
	defer unix.Close(ring)
	var maps [3][]byte
	for i, m := range []struct {
		offset int64
		size   uint32
	}{{0, p.sq.array + 4*p.sqEntries}, {uringOffsetCQ, p.cq.cqes + 16*p.cqEntries}, {uringOffsetSQEs, 64 * p.sqEntries}} {
		data, err := unix.Mmap(ring, m.offset, int(m.size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return os.NewSyscallError("mmap", err)
		}
		defer unix.Munmap(data)
		maps[i] = data
	}
	sq, cq, sqe := maps[0], maps[1], maps[2]

	var pinned runtime.Pinner
	defer pinned.Unpin()
	pinned.Pin(&sa[0])
	sqe[0], sqe[1] = uringOpConnect, flags
	binary.NativeEndian.PutUint32(sqe[4:], uint32(socket))
	binary.NativeEndian.PutUint64(sqe[8:], uint64(len(sa)))
	binary.NativeEndian.PutUint64(sqe[16:], uint64(uintptr(unsafe.Pointer(&sa[0]))))
	binary.NativeEndian.PutUint32(sq[p.sq.array:], 0)
	binary.NativeEndian.PutUint32(sq[p.sq.tail:], 1)

	n, _, errno := unix.Syscall6(unix.SYS_IO_URING_ENTER, uintptr(ring), 1, 1, uringGetEvents, 0, 0)
	if errno != 0 || n != 1 {
		return fmt.Errorf("io_uring_enter: %d, %w", n, errno)
	}
	if result := int32(binary.NativeEndian.Uint32(cq[p.cq.cqes+8:])); result != 0 {
		return os.NewSyscallError("connect by io_uring", unix.Errno(-result))
	}
	return nil
}
