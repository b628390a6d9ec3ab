// SPDX-License-Identifier: Apache-2.0

package hbone

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// A stream has two legs, and each of its two ends proves those it has itself. That the
// peer's TCP acknowledged what the app said is proven for many streams at once, by
// their tunnel (acknowledge.go). That the app's TCP acknowledged what the peer said, and
// the FIN behind it, is asked by settle, when the tunnel has its proof. By then the app
// nearly always has: it answers a FIN at once when it has finished itself. So that is
// one system call, and only an app that is slow to read keeps its stream's goroutine.

// settle waits for the proof of the app's leg. It reads meanwhile from an app that the
// peer does not listen to any more: a socket that is closed with something unread is
// reset, and that would discard what it has yet to send.
func (s *Stream) settle(app *net.TCPConn, raw syscall.RawConn) error {
	return s.patiently(func() (left int, gone bool) { return unheard(raw) }, func(pause time.Duration) {
		if !s.unread || !swallow(app, pause) {
			time.Sleep(pause)
		}
	})
}

// unheard is socket.Unheard of an app.
func unheard(raw syscall.RawConn) (left int, gone bool) {
	raw.Control(func(fd uintptr) { left, gone = socket.Unheard(fd) })
	return left, gone
}

// patiently asks until nothing is left, for as long as that gets on and nobody breaks
// the stream off, and passes the time in between.
func (s *Stream) patiently(ask func() (left int, gone bool), pass func(time.Duration)) error {
	var progress socket.Progress
	for pause := time.Millisecond; ; pause = min(2*pause, longestProofPause) {
		left, gone := ask()
		switch {
		case left == 0:
			return nil
		case gone:
			return fmt.Errorf("%w: the app went before it acknowledged the last bytes", ErrReset)
		case progress.Stood(left) >= socket.Standstill:
			return fmt.Errorf("%w: the app did not acknowledge the last bytes in %v", ErrReset, socket.Standstill)
		}
		if err := s.cutShort(); err != nil {
			return err
		}
		pass(pause)
	}
}

// swallow drops what an app says until the pause is over. It reports false if the app
// says no more, and the pause is yet to be waited for.
func swallow(app *net.TCPConn, pause time.Duration) bool {
	app.SetReadDeadline(time.Now().Add(pause))
	_, err := io.Copy(io.Discard, app)
	return errors.Is(err, os.ErrDeadlineExceeded)
}

// cutShort is by what somebody broke the stream off after its end, or its tunnel: what
// the app has not acknowledged is not waited for. Nil: nobody did.
func (s *Stream) cutShort() error {
	s.c.mu.Lock()
	defer s.c.unlock()
	if s.cutBy != nil {
		return s.cutBy
	}
	return s.c.aborted
}
