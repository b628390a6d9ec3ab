// SPDX-License-Identifier: Apache-2.0

package signing

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// listenAs has one thread be another user while it calls listen(2). The thread is not
// given back.
func listenAs(t *testing.T, fd int, uid int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: it ends with the goroutine
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0))
		if errno != 0 {
			done <- errno
			return
		}
		done <- unix.Listen(fd, 1)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
