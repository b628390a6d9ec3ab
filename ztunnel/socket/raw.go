// SPDX-License-Identifier: Apache-2.0

//go:build !race

package socket

import (
	"syscall"
	"unsafe"
)

func read(fd uintptr, p []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
}

func write(fd uintptr, p []byte) (int, error) {
	return result(syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p))))
}

func readv(fd uintptr, v [][]byte) (int, error) {
	var vector [most]syscall.Iovec
	n := fill(&vector, v)
	return result(syscall.RawSyscall(syscall.SYS_READV, fd, uintptr(unsafe.Pointer(&vector)), n))
}

func writev(fd uintptr, v [][]byte) (int, error) {
	var vector [most]syscall.Iovec
	n := fill(&vector, v)
	return result(syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&vector)), n))
}

func fill(vector *[most]syscall.Iovec, v [][]byte) uintptr {
	for i, p := range v {
		vector[i].Base = unsafe.SliceData(p)
		vector[i].SetLen(len(p))
	}
	return uintptr(len(v))
}

func result(n, _ uintptr, errno syscall.Errno) (int, error) {
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
