// SPDX-License-Identifier: Apache-2.0

package env

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

const bpffs = "/sys/fs/bpf"

// BPFFS returns an empty directory on a bpffs, removed with its pins when the
// test ends: in /sys/fs/bpf if that is one, else on a mount of the test's own.
func BPFFS(t testing.TB) string {
	t.Helper()
	Need(t, BPF)
	var st unix.Statfs_t
	if err := unix.Statfs(bpffs, &st); err == nil && st.Type == unix.BPF_FS_MAGIC {
		return pinDir(t)
	}
	dir := filepath.Join(t.TempDir(), "bpf")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", dir, "bpf", 0, "mode=0700"); err != nil {
		t.Fatalf("mount a bpffs: %v", describe(err))
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount bpffs %s: %v", dir, err)
		}
	})
	return dir
}

func pinDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(bpffs, "culvert-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove pins: %v", err)
		}
	})
	return dir
}

// progLoad is the head of union bpf_attr for BPF_PROG_LOAD, linux/bpf.h.
type progLoad struct {
	progType           uint32
	insnCnt            uint32
	insns              uint64
	license            uint64
	logLevel           uint32
	logSize            uint32
	logBuf             uint64
	kernVersion        uint32
	progFlags          uint32
	progName           [16]byte
	progIfindex        uint32
	expectedAttachType uint32
}

// probeBPF loads "r0 = 1; exit" as a cgroup/connect4 program. A socket filter
// would not do: kernels let unprivileged users load those.
func probeBPF() error {
	const (
		cmdProgLoad    = 5
		typeCgroupAddr = 18 // BPF_PROG_TYPE_CGROUP_SOCK_ADDR
		attachConnect4 = 10 // BPF_CGROUP_INET4_CONNECT
	)
	insns := [...]uint64{0x00000001_0000_00_b7, 0x00000000_0000_00_95}
	license := [...]byte{'G', 'P', 'L', 0}
	attr := progLoad{
		progType:           typeCgroupAddr,
		insnCnt:            uint32(len(insns)),
		insns:              uint64(uintptr(unsafe.Pointer(&insns))),
		license:            uint64(uintptr(unsafe.Pointer(&license))),
		expectedAttachType: attachConnect4,
	}
	fd, _, errno := unix.Syscall(unix.SYS_BPF, cmdProgLoad, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(&insns)
	runtime.KeepAlive(&license)
	if errno != 0 {
		return fmt.Errorf("bpf(BPF_PROG_LOAD): %w", errno)
	}
	return unix.Close(int(fd))
}
