// SPDX-License-Identifier: Apache-2.0

package socket

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Go preempts by signals. One that is pending when a read meets an urgent byte
// has the kernel say EAGAIN, and no event follows for a byte that has arrived.
func TestASignalDoesNotHideAnUrgentByte(t *testing.T) {
	far, near, _ := pair(t)
	near.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
			t.Fatal(err)
		}
	})
	signals(t)
	hidden := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		far.Control(func(fd uintptr) {
			if err := unix.Sendto(int(fd), []byte{1}, unix.MSG_OOB, nil); err != nil {
				t.Fatal(err)
			}
		})
		near.Control(func(fd uintptr) {
			var b [2]byte
			arrived := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			for n := 0; n != 1; {
				if _, err := unix.Poll(arrived, -1); err != nil {
					continue
				}
				if n, _ = ReadInline(fd, b[:]); n == 0 {
					hidden++
				}
			}
		})
	}
	if hidden > 0 {
		t.Errorf("hidden %d times", hidden)
	}
}

// signals has this goroutine's thread interrupted all the time, until the test ends.
func signals(t *testing.T) {
	runtime.LockOSThread()
	thread, over, done := unix.Gettid(), atomic.Bool{}, make(chan struct{})
	go func() {
		defer close(done)
		for !over.Load() {
			unix.Tgkill(unix.Getpid(), thread, unix.SIGURG)
		}
	}()
	t.Cleanup(func() {
		over.Store(true)
		<-done
		runtime.UnlockOSThread()
	})
}
