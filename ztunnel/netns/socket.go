// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
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
// then waits in the netpoller like any other.
func (ns *NS) Dial(ctx context.Context, to netip.AddrPort, prepare func(fd int) error) (*net.TCPConn, error) {
	away := true
	var stranded error
	back := func() error {
		away = false
		if stranded = ns.leave(); stranded != nil {
			return stranded
		}
		runtime.UnlockOSThread()
		return nil
	}
	d := net.Dialer{ControlContext: func(_ context.Context, _, _ string, c syscall.RawConn) error {
		if !away {
			return errSecondSocket
		}
		if err := back(); err != nil {
			return err
		}
		return onFd(c, prepare)
	}}
	d.SetMultipathTCP(false)

	runtime.LockOSThread()
	if err := ns.enter(); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("dial %v: %w", to, err)
	}
	conn, err := d.DialContext(ctx, network(to.Addr()), to.String())
	if away {
		back() // no socket, so no call of Control
	}
	if stranded != nil {
		return nil, stranded
	}
	if err != nil {
		return nil, err
	}
	return conn.(*net.TCPConn), nil
}

// Listen opens a TCP listener inside the namespace, never an MPTCP one: those
// cannot enter a SOCKHASH. prepare, which may be nil, is called with the new
// socket before it is bound.
func (ns *NS) Listen(ctx context.Context, at netip.AddrPort, prepare func(fd int) error) (*net.TCPListener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onFd(c, prepare)
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
	if f == nil {
		return nil
	}
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
