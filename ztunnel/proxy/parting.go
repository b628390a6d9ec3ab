// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"net"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// What an end of a relay sent before it broke off reaches the other end before the
// reset does, as it would without us. A server that does not want the rest of a
// request answers and closes; the reset that follows its answer is told to whoever
// writes to it, while the answer may still lie in the socket, where the kernel keeps
// it to be read. And what we have written to the other end, its kernel may not have
// yet: a reset discards it. Either is waited for as long as it gets on.

// longestPause is the longest between two looks at what is left. A relay keeps its
// descriptors so long after its end.
const longestPause = 20 * time.Millisecond

// errUnheard: both ends have finished, and one did not acknowledge that it heard.
var errUnheard = errors.New("the last bytes were not acknowledged")

// deaf is the error of a transfer whose dst takes no more. What dst sent before
// that is yet to be read.
type deaf struct{ error }

func (d deaf) Unwrap() error { return d.error }

// broke ends the relay for an error of one direction, when the end that broke can
// lose nothing by that any more. If that end was written to, the direction back
// reads from it to the end.
func (r *relaying) broke(back *oneWay, err error) {
	if errors.As(err, new(deaf)) && r.open.Add(-1) > 0 {
		r.patiently(func() (left int, done bool) {
			return comes(back.dst) - int(back.n.Load()), back.ended.Load()
		})
	}
	r.settle()
	r.abort(err)
}

// settle waits until both ends have acknowledged all that was written to them, as
// far as they still can. It reports whether they have.
func (r *relaying) settle() bool {
	r.patiently(func() (left int, done bool) {
		left = comes(r.app) + comes(r.far)
		return left, left == 0
	})
	return unacked(r.app)+unacked(r.far) == 0
}

// patiently waits until something is done, as long as what is left changes and the
// relay is not aborted. It reports whether it was done.
func (r *relaying) patiently(ask func() (left int, done bool)) bool {
	var progress socket.Progress
	left, done := ask()
	for pause := time.Millisecond; !done; pause = min(2*pause, longestPause) {
		if progress.Stood(left) >= socket.Standstill {
			return false
		}
		select {
		case <-r.aborted:
			return false
		case <-time.After(pause):
		}
		left, done = ask()
	}
	return true
}

// unacked is how many of the bytes written to conn its other end has not
// acknowledged.
func unacked(conn *net.TCPConn) (n int) {
	inspect(conn, func(fd uintptr) { n, _ = socket.Unacked(fd) })
	return n
}

// comes is unacked, but none if the connection is no more: nobody will.
func comes(conn *net.TCPConn) (n int) {
	inspect(conn, func(fd uintptr) {
		if left, gone := socket.Unheard(fd); !gone {
			n = left
		}
	})
	return n
}

func inspect(conn *net.TCPConn, look func(fd uintptr)) {
	if raw, err := conn.SyscallConn(); err == nil {
		raw.Control(look)
	}
}
