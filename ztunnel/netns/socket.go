// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/socket"
)

// errSecondSocket ends a dial for which package net wants another socket: it
// makes one after EADDRNOTAVAIL and after a self-connect, but by then the
// thread is back home, and so would the socket be.
var errSecondSocket = fmt.Errorf("connect, or self-connect: %w", unix.EADDRNOTAVAIL)

// Dial connects to a TCP address from inside the namespace. prepare, which may
// be nil, is called with the new socket before it connects, to set options or
// to bind it.
//
// The thread is locked and away for socket(2) only: package net makes the
// socket on the calling goroutine and calls Control right after. The connect
// then waits in the netpoller like any other, unless there is nothing to wait
// for: see begin.
func (ns *NS) Dial(ctx context.Context, to netip.AddrPort, prepare func(fd int) error) (*net.TCPConn, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	d := &dialing{ctx: ctx, ns: ns, to: to, prepare: prepare, away: true}
	d.KeepAliveConfig, d.ControlContext = keepAlive, d.control
	d.SetMultipathTCP(false)
	runtime.LockOSThread()
	if err := ns.enter(); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	conn, err := d.DialTCP(ctx, network(to.Addr()), netip.AddrPort{}, to)
	if d.away {
		d.home() // no socket, so no call of Control
	}
	if d.stranded != nil {
		return nil, d.stranded
	}
	return conn, err
}

// dialing is a call of Dial. It is one object where closures would be ten, for each
// connection.
type dialing struct {
	net.Dialer
	ctx      context.Context
	ns       *NS
	to       netip.AddrPort
	prepare  func(fd int) error
	away     bool  // the thread is locked, and in ns
	stranded error // why it did not come home
	refused  error // by prepare, or why the socket cannot be prepared
}

func (d *dialing) home() error {
	d.away = false
	if d.stranded = d.ns.leave(); d.stranded == nil {
		runtime.UnlockOSThread()
	}
	return d.stranded
}

func (d *dialing) control(_ context.Context, _, _ string, c syscall.RawConn) error {
	if !d.away {
		return errSecondSocket
	}
	if err := d.home(); err != nil {
		return err
	}
	if err := c.Control(d.start); err != nil {
		return err
	}
	return d.refused
}

func (d *dialing) start(fd uintptr) {
	if d.refused = keepUrgent(int(fd)); d.refused == nil && d.prepare != nil {
		d.refused = d.prepare(int(fd))
	}
	if d.refused == nil {
		d.refused = socket.SaveAck(d.ctx, fd)
	}
	if d.refused == nil {
		begin(int(fd), d.to)
	}
}

// begin connects before package net does. A peer on this machine has answered
// by the time connect() returns, which cannot say so yet; the next connect()
// does, and there is no need to wait for it in the netpoller. What fails here
// fails there too, and is told there.
func begin(fd int, to netip.AddrPort) { _ = socket.Connect(uintptr(fd), to) }

// keepAlive is on every TCP connection of a pod. It is also what ends a
// half-closed connection whose other side is gone for good: the kernel of a
// process that died answers the probe with a reset, that of one which only
// closed its sending side does not.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 180 * time.Second, Interval: 180 * time.Second, Count: 9}

// keepUrgent leaves a byte that was sent with MSG_OOB among the others. The
// kernel would else take it out, and read(2) would never return it.
func keepUrgent(fd int) error {
	return os.NewSyscallError("setsockopt(SO_OOBINLINE)", socket.SetOption(uintptr(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1))
}

// inherit sets keepAlive and keepUrgent on a listener, whose connections have
// them from the start: package net would set keepAlive on each of them.
func inherit(fd int) error {
	if err := keepUrgent(fd); err != nil {
		return err
	}
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.SOL_TCP, unix.TCP_KEEPIDLE, int(keepAlive.Idle.Seconds())},
		{unix.SOL_TCP, unix.TCP_KEEPINTVL, int(keepAlive.Interval.Seconds())},
		{unix.SOL_TCP, unix.TCP_KEEPCNT, keepAlive.Count},
	} {
		if err := unix.SetsockoptInt(fd, o.level, o.option, o.value); err != nil {
			return os.NewSyscallError("setsockopt(keepalive)", err)
		}
	}
	return nil
}

// Listen opens a TCP listener inside the namespace, never an MPTCP one: those
// cannot enter a SOCKHASH. prepare, which may be nil, is called with the new
// socket before it is bound.
func (ns *NS) Listen(ctx context.Context, at netip.AddrPort, prepare func(fd int) error) (*net.TCPListener, error) {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, c syscall.RawConn) error {
		return onFd(c, func(fd int) error {
			if prepare != nil {
				if err := prepare(fd); err != nil {
					return err
				}
			}
			return inherit(fd)
		})
	}}
	lc.SetMultipathTCP(false)
	var ln net.Listener
	err := ns.Do(func() (err error) {
		ln, err = lc.Listen(ctx, network(at.Addr()), at.String())
		return err
	})
	if err != nil {
		if ln != nil {
			ln.Close()
		}
		return nil, err
	}
	return ln.(*net.TCPListener), nil
}

func onFd(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if failed := c.Control(func(fd uintptr) { err = f(int(fd)) }); failed != nil {
		return failed
	}
	return err
}

func network(addr netip.Addr) string {
	if addr.Is4() {
		return "tcp4"
	}
	return "tcp6"
}
