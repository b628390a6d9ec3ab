// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// tally counts the payload of one connection as it passes.
type tally struct {
	sent     atomic.Uint64 // from the pod's app to the far end
	received atomic.Uint64 // from the far end to the pod's app
}

// reset closes conn so that its peer sees a reset, not an end of data.
func reset(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}

// relay carries bytes between app and far until both directions have ended,
// and closes both. The directions are independent: the end of one is passed on
// and the other goes on for as long as it likes. An error of either end, or the
// end of ctx, resets both, so that nobody mistakes it for an end of data.
func relay(ctx context.Context, app, far *net.TCPConn, n *tally) error {
	r := &relaying{app: app, far: far}
	r.open.Store(2)
	stop := context.AfterFunc(ctx, func() { r.abort(context.Cause(ctx)) })
	defer stop()

	var other sync.WaitGroup
	other.Go(func() { r.carry(app, far, &n.received, &r.toApp, &r.toFar) })
	r.carry(far, app, &n.sent, &r.toFar, &r.toApp)
	other.Wait()

	app.Close()
	far.Close()
	return r.err
}

// relaying is the state that the two directions of a relay share.
type relaying struct {
	app, far *net.TCPConn
	open     atomic.Int32 // directions that have not seen their end

	toApp, toFar atomic.Bool // the end of data was passed on to it

	once sync.Once
	err  error // written once by abort, read when both directions are done
}

// abort ends both directions; the first reason is kept.
func (r *relaying) abort(err error) {
	r.once.Do(func() {
		r.err = err
		reset(r.app)
		reset(r.far)
	})
}

// carry moves one direction. After its end it stays to watch src, because
// nobody else would notice there that the process behind it has gone.
func (r *relaying) carry(dst, src *net.TCPConn, n *atomic.Uint64, toDst, toSrc *atomic.Bool) {
	err := transfer(dst, src, n)
	if err == nil && isClosed(src) && !toSrc.Load() {
		// Not even half of it was closed here, so it was reset. The kernel
		// tells that once, and the other direction, which writes, was first.
		err = syscall.ECONNRESET
	}
	if err == nil {
		toDst.Store(true)
		err = dst.CloseWrite()
	}
	if err != nil {
		r.abort(err)
		return
	}
	if r.open.Add(-1) == 0 {
		// The other direction may be watching, and has nothing to wait for.
		past := time.Unix(1, 0)
		r.app.SetReadDeadline(past)
		r.far.SetReadDeadline(past)
		return
	}
	if err := watch(src); err != nil {
		r.abort(err)
	}
}

// isClosed reports that both ways of a connection have ended, or that it broke.
func isClosed(conn *net.TCPConn) (closed bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	err = raw.Control(func(fd uintptr) { closed = socket.Broke(fd) })
	return closed || err != nil
}

// watch waits on a socket whose incoming side has ended, until the socket
// breaks, which it returns, or its read deadline passes.
func watch(conn *net.TCPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var broke error
	// The error of Read is the deadline's or, after abort, the close's.
	raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are always reported
		if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
			return false
		}
		// A hang-up without error: both directions were closed in good order.
		if code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
			broke = syscall.Errno(code)
		}
		return true
	})
	return broke
}
