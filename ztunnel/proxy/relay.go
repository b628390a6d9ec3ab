// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"net"
	"os"
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
	socket.Abort(conn) // loses what is yet to be sent: callers wait for that before, or say why there is none
}

// relay carries bytes between app and far until both directions have ended,
// and closes both. The directions are independent: the end of one is passed on
// and the other goes on for as long as it likes. An error of either end resets
// both, so that nobody mistakes it for an end of data, but behind what that end
// had sent before (parting.go). The end of ctx resets both at once.
//
// It calls over, once, when all is over: before it returns, or later in another
// goroutine. A direction on which nothing moves has none (rest.go). Without an error,
// both ends have acknowledged all that was sent to them. In bulk the kernel may hold
// more for them, as long as share has room (room.go).
func relay(ctx context.Context, app, far *net.TCPConn, n *tally, share *Share, over func(error)) {
	r := &relaying{app: app, far: far, aborted: make(chan struct{}), over: over}
	r.toFar.dst, r.toFar.src, r.toFar.n, r.toFar.room.from = far, app, &n.sent, share.lending()
	r.toApp.dst, r.toApp.src, r.toApp.n, r.toApp.room.from = app, far, &n.received, share.lending()
	r.open.Store(2)
	r.left.Store(2)
	for _, conn := range []*net.TCPConn{app, far} {
		conn.SetDeadline(time.Time{}) // from now on the read deadlines are those of the rests
		limitUnsent(conn, socket.UnsentOfApp)
	}
	r.unwatch = context.AfterFunc(ctx, func() { r.abort(context.Cause(ctx)) })
	ticking.add(r)
	go r.carry(&r.toApp, &r.toFar)
	r.carry(&r.toFar, &r.toApp)
}

// relaying is the state that the two directions of a relay share.
type relaying struct {
	app, far     *net.TCPConn
	toFar, toApp oneWay
	open         atomic.Int32 // directions that have not seen their end
	left         atomic.Int32 // directions that carry, watch, or rest from either
	over         func(error)
	unwatch      func() bool // the end of the context

	once    sync.Once
	aborted chan struct{} // closed by abort
	err     error         // written in once
}

// oneWay is one of the two directions of a relay.
type oneWay struct {
	dst, src *net.TCPConn
	n        *atomic.Uint64 // bytes that dst took
	room     room           // of dst
	told     atomic.Bool    // the end of data was passed on to dst
	ended    atomic.Bool    // nothing more will be passed on
	rest     socket.Rest    // of whoever reads or watches src
}

// abort ends both directions at once; the first reason is kept. What the kernel
// has yet to send is lost: whoever does not want that settles first.
func (r *relaying) abort(err error) {
	r.once.Do(func() {
		r.err = err
		close(r.aborted)
		reset(r.app) // settled before, unless ctx ended: policy, and the end of a drain, wait for nothing
		reset(r.far)
		r.toFar.rest.Stop(r.app)
		r.toApp.rest.Stop(r.far)
	})
}

// carry moves one direction. After its end it stays to watch src, because
// nobody else would notice there that the process behind it has gone. If the
// direction comes to rest before, carry returns, and resume calls it again.
func (r *relaying) carry(d, back *oneWay) {
	err := d.move(back)
	for isRest(err) && !d.rest.Stopped() {
		if d.park(func() { r.resume(d, back) }) {
			return
		}
		err = d.move(back)
	}
	d.ended.Store(true)
	switch {
	case err != nil:
		r.broke(back, err)
	case r.open.Add(-1) == 0:
		back.rest.Stop(back.src) // the other direction may be watching, and has nothing to wait for
	case r.watch(d):
		return // it rests
	}
	r.leave()
}

// leave ends one direction's part in the relay, and with the second one the relay.
func (r *relaying) leave() {
	if r.left.Add(-1) > 0 {
		return
	}
	ticking.remove(r)
	heard := r.settle()
	r.once.Do(func() { // or abort was first: of an end of the context, meanwhile, too
		if !heard {
			r.err = errUnheard
		}
	})
	r.unwatch()
	// Nothing unread is left, for which the kernel would send a reset: what an
	// end has not acknowledged, it is still sent.
	r.app.Close()
	r.far.Close()
	r.toFar.room.end()
	r.toApp.room.end()
	r.over(r.err)
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

// watch waits until src, whose data has ended, breaks, which aborts the relay, or until
// nobody need wait any more. It reports that the direction rests until then: watchOn
// calls it again.
func (r *relaying) watch(d *oneWay) (rests bool) {
	broke, over := hungUp(d.src)
	for !over && !d.rest.Stopped() {
		if d.parkDeaf(func() { r.watchOn(d) }) {
			return true
		}
		broke, over = awaitHangUp(d.src)
	}
	if broke != nil {
		r.settle()
		r.abort(broke)
	}
	return false
}

// hungUp reports that both directions of a connection are closed, and why, if that was
// in no good order.
func hungUp(conn *net.TCPConn) (broke error, over bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, true
	}
	if err := raw.Control(func(fd uintptr) { broke, over = hungUpNow(fd) }); err != nil {
		return nil, true // closed: by abort
	}
	return broke, over
}

func hungUpNow(fd uintptr) (broke error, over bool) {
	poll := []unix.PollFd{{Fd: int32(fd)}} // errors and hang-ups are always reported
	if n, err := unix.Poll(poll, 0); err != nil || n == 0 {
		return nil, false
	}
	if code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR); err == nil && code != 0 {
		return syscall.Errno(code), true
	}
	return nil, true
}

// awaitHangUp is hungUp that waits until then, or until the read deadline has passed.
func awaitHangUp(conn *net.TCPConn) (broke error, over bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, true
	}
	err = raw.Read(func(fd uintptr) bool {
		broke, over = hungUpNow(fd)
		return over
	})
	return broke, over || err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
