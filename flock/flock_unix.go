// SPDX-License-Identifier: Apache-2.0

//go:build unix

package flock

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Try locks a file or directory until file is closed, and waits for nobody: ErrHeld if
// another process has locked it.
func Try(file *os.File) error {
	err := lock(file, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

// Wait is Try that waits for the other process.
func Wait(file *os.File) error { return lock(file, unix.LOCK_EX) }

func lock(file *os.File, how int) error {
	for {
		if err := unix.Flock(int(file.Fd()), how); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// Holder names the process that has locked the file by flock(2), as /proc/locks does.
// That lists no process of a PID namespace which the reader's /proc does not show.
func Holder(file *os.File) string {
	const unknown = "a process that /proc/locks does not show here: it may be in another PID namespace"
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return unknown
	}
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev)), st.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer locks.Close()
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		// proc_locks(5): number, class, mode, type, process, device and inode.
		fields := strings.Fields(lines.Text())
		if len(fields) < 6 || fields[1] != "FLOCK" || fields[5] != id {
			continue
		}
		if pid, err := strconv.Atoi(fields[4]); err == nil && pid > 0 {
			return process(pid)
		}
	}
	return unknown
}

func process(pid int) string {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err != nil {
		return fmt.Sprintf("process %d", pid)
	}
	return fmt.Sprintf("process %d (%s)", pid, strings.TrimSpace(string(name)))
}
