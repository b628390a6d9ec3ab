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
	conn.Close() // loses what is yet to be sent: callers wait for that before, or say why there is none
}

// relay carries bytes between app and far until both directions have ended,
// and closes both. The directions are independent: the end of one is passed on
// and the other goes on for as long as it likes. An error of either end resets
// both, so that nobody mistakes it for an end of data, but behind what that end
// had sent before (parting.go). The end of ctx resets both at once.
//
// Without an error, both ends have acknowledged all that was sent to them. In bulk
// the kernel may hold more for them, as long as share has room (room.go).
func relay(ctx context.Context, app, far *net.TCPConn, n *tally, share *Share) error {
	r := &relaying{app: app, far: far, over: make(chan struct{})}
	toFar := &oneWay{dst: far, src: app, n: &n.sent, room: room{from: share.lending()}, ended: make(chan struct{})}
	toApp := &oneWay{dst: app, src: far, n: &n.received, room: room{from: share.lending()}, ended: make(chan struct{})}
	r.open.Store(2)
	stop := context.AfterFunc(ctx, func() { r.abort(context.Cause(ctx)) })
	defer stop()

	var other sync.WaitGroup
	other.Go(func() { r.carry(toApp, toFar) })
	r.carry(toFar, toApp)
	other.Wait()

	heard := r.settle()
	r.once.Do(func() { // or abort was first
		if !heard {
			r.err = errUnheard
		}
	})
	// Nothing unread is left, for which the kernel would send a reset: what an
	// end has not acknowledged, it is still sent.
	app.Close()
	far.Close()
	toFar.room.end()
	toApp.room.end()
	return r.err
}

// relaying is the state that the two directions of a relay share.
type relaying struct {
	app, far *net.TCPConn
	open     atomic.Int32 // directions that have not seen their end

	once sync.Once
	over chan struct{} // closed by abort
	err  error         // written in once
}

// oneWay is one of the two directions of a relay.
type oneWay struct {
	dst, src *net.TCPConn
	n        *atomic.Uint64 // bytes that dst took
	room     room           // of dst
	told     atomic.Bool    // the end of data was passed on to dst
	ended    chan struct{}  // closed when nothing more will be passed on
}

// abort ends both directions at once; the first reason is kept. What the kernel
// has yet to send is lost: whoever does not want that settles first.
func (r *relaying) abort(err error) {
	r.once.Do(func() {
		r.err = err
		close(r.over)
		reset(r.app) // settled before, unless ctx ended: policy, and the end of a drain, wait for nothing
		reset(r.far)
	})
}

// carry moves one direction. After its end it stays to watch src, because
// nobody else would notice there that the process behind it has gone.
func (r *relaying) carry(d, back *oneWay) {
	err := d.move(back)
	close(d.ended)
	if err != nil {
		r.broke(back, err)
		return
	}
	if r.open.Add(-1) == 0 {
		// The other direction may be watching, and has nothing to wait for.
		past := time.Unix(1, 0)
		r.app.SetReadDeadline(past)
		r.far.SetReadDeadline(past)
		return
	}
	if err := watch(d.src); err != nil {
		r.settle()
		r.abort(err)
	}
}

// move passes on all that src sends, and its end.
func (d *oneWay) move(back *oneWay) error {
	if err := transfer(d.dst, d.src, d.n, &d.room); err != nil {
		return err
	}
	if isClosed(d.src) && !back.told.Load() {
		// Not even half of it was closed here, so it was reset. The kernel
		// tells that once, and the other direction, which writes, was first.
		return syscall.ECONNRESET
	}
	d.told.Store(true)
	if err := d.dst.CloseWrite(); err != nil {
		d.told.Store(false)
		return deaf{err}
	}
	return nil
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
