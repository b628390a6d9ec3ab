// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"testing"

	"golang.org/x/sys/unix"
)

// A socket of which both ends have finished hangs up too, and may still hold
// bytes that the peer's window holds back.
func TestAppThatHasFinishedIsNotTakenForOneThatIsGone(t *testing.T) {
	l, far := newPipe(t)
	a, b := l.open(), <-far
	b.CloseWrite()
	a.wantEOF()
	window := a.s.setWindow(0)
	a.write("last ")
	waitUntil(t, func() bool {
		return a.s.stateOfSender() != senderWaiting
	})
	a.write("words")
	a.Close()
	waitUntil(t, a.s.hungUp)
	a.s.c.tick()
	a.s.setWindow(window)
	b.wantRead("last words")
	b.wantEOF()
	for _, end := range []*app{a, b} {
		if r := end.wait(t); r.err != nil {
			t.Error(r.err)
		}
	}
}

// setWindow is what the peer's SETTINGS or WINDOW_UPDATE do.
func (s *Stream) setWindow(n int) (before int) {
	s.c.writer.mu.Lock()
	before = s.sendWindow
	s.c.writer.mu.Unlock()
	s.c.writer.allow(s, n-before)
	return before
}

func (s *Stream) hungUp() (is bool) {
	s.toApp.raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		is = err == nil && n == 1 && fds[0].Revents&unix.POLLHUP != 0
	})
	return is
}
