// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syscalls counts the system calls of processes.
type Syscalls struct{ fds []int }

// CountSyscalls begins to count, in all threads that there are and those they
// start. The kernel counts; nothing is stopped, as strace would.
func CountSyscalls(pids ...int) (*Syscalls, error) {
	id, err := tracepoint("raw_syscalls/sys_enter")
	if err != nil {
		return nil, err
	}
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id, Bits: unix.PerfBitInherit}
	attr.Size = uint32(unsafe.Sizeof(attr))
	s := new(Syscalls)
	for _, pid := range pids {
		tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return nil, errors.Join(err, s.Close())
		}
		for _, task := range tasks {
			tid, _ := strconv.Atoi(task.Name())
			fd, err := unix.PerfEventOpen(&attr, tid, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return nil, errors.Join(fmt.Errorf("count the syscalls of process %d: %w", pid, err), s.Close())
			}
			s.fds = append(s.fds, fd)
		}
	}
	return s, nil
}

// Count is how many there were so far.
func (s *Syscalls) Count() (total uint64, err error) {
	var value [8]byte
	for _, fd := range s.fds {
		if _, err := unix.Read(fd, value[:]); err != nil {
			return 0, err
		}
		total += binary.NativeEndian.Uint64(value[:])
	}
	return total, nil
}

// Close ends it.
func (s *Syscalls) Close() error {
	for _, fd := range s.fds {
		unix.Close(fd)
	}
	s.fds = nil
	return nil
}

// tracepoint is the number of one. It mounts a tracefs of its own, since hosts
// have it at different places or nowhere.
func tracepoint(name string) (uint64, error) {
	dir, err := os.MkdirTemp("", "tracefs")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	if err := unix.Mount("tracefs", dir, "tracefs", unix.MS_RDONLY, ""); err != nil {
		return 0, fmt.Errorf("mount a tracefs: %w", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	text, err := os.ReadFile(filepath.Join(dir, "events", name, "id"))
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
}
