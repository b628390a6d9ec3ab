// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"errors"
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawBit is CAP_NET_RAW among the first 32 capabilities of a thread.
const rawBit = 1 << unix.CAP_NET_RAW

// DropRaw takes CAP_NET_RAW from what all threads of the process may do. They may raise it
// again, and only a watch does, for the system call that opens its socket. A program that is
// linked with C cannot change all of its threads: DropRaw returns errors.ErrUnsupported.
func DropRaw() error {
	header, sets, err := ownSets()
	if err != nil || sets[0].Effective&rawBit == 0 {
		return err
	}
	sets[0].Effective &^= rawBit
	_, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets[0])), 0)
	if errno == unix.ENOTSUP {
		return errors.ErrUnsupported
	}
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	return nil
}

// ownSets are the capabilities of the calling thread.
func ownSets() (header unix.CapUserHeader, sets [2]unix.CapUserData, err error) {
	header.Version = unix.LINUX_CAPABILITY_VERSION_3
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return header, sets, fmt.Errorf("capget: %w", err)
	}
	return header, sets, nil
}

// packetSocket makes one in the netns of the calling thread, which the caller has locked.
// Only meanwhile the thread has CAP_NET_RAW.
func packetSocket() (fd int, err error) {
	header, sets, err := ownSets()
	if err != nil {
		return -1, err
	}
	if before := sets[0].Effective; before&rawBit == 0 && sets[0].Permitted&rawBit != 0 {
		sets[0].Effective |= rawBit
		if err := unix.Capset(&header, &sets[0]); err != nil {
			return -1, fmt.Errorf("raise CAP_NET_RAW: %w", err)
		}
		defer func() {
			sets[0].Effective = before
			if lowered := unix.Capset(&header, &sets[0]); lowered != nil {
				unix.Close(fd) // which may be none
				fd, err = -1, errors.Join(err, fmt.Errorf("lower CAP_NET_RAW: %w", lowered))
			}
		}()
	}
	fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open a packet socket, which needs CAP_NET_RAW: %w", err)
	}
	return fd, nil
}
