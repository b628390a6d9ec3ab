// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rawConnect passes an address that package unix has no type for.
func rawConnect(fd int, sa []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa[0])), uintptr(len(sa)))
	if errno != 0 {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}
