// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// objectID asks for the ID of a program or a map, and nothing else. Every two seconds many
// are asked for it, and the Info of package ebpf reads /proc, and of a program its BTF too.
func objectID(fd int) (uint32, error) {
	info := struct{ kind, id uint32 }{} // how bpf_prog_info and bpf_map_info begin; the kernel fills in what there is room for
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer // 64 bits, as everywhere that we run
	}{uint32(fd), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, os.NewSyscallError("bpf(BPF_OBJ_GET_INFO_BY_FD)", errno)
	}
	return info.id, nil
}
