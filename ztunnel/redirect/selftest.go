// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Addresses that no pod has: RFC 5737 and RFC 3849 reserve them.
var (
	testPod = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	testFar = []netip.AddrPort{netip.MustParseAddrPort("198.51.100.7:4242"), netip.MustParseAddrPort("[2001:db8:f::7]:4242")}
)

const selfTestLimit = 3 * time.Second

// SelfTest enrols a scratch netns and proves on this very kernel that
// connections are steered, that their destination is known, that closing
// works, that stand-ins are nobody else's, and that without a listener connections
// are refused. Run it before the first pod is enrolled.
//
// It uses sockets of this process, as ztunnel will: if this process is not
// below Options.Cgroup, no destination would ever be known, and it says so.
func (d *Datapath) SelfTest(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, selfTestLimit)
	defer cancel()
	ns, err := netns.New()
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer ns.Close()
	t := &selfTest{d: d, ns: ns}
	defer func() { err = errors.Join(err, t.leave()) }()
	if err := t.enroll(ctx); err != nil {
		return fmt.Errorf("self-test: enroll: %w", err)
	}
	for i, addr := range t.addrs {
		for _, step := range []struct {
			name string
			run  func(ctx context.Context, pod netip.Addr, far netip.AddrPort) error
		}{
			{"steer outbound", t.steerOutbound},
			{"keep stand-ins to the pod", t.keepStandIns},
			{"steer inbound", t.steerInbound},
			{"reach the app", t.reachApp},
		} {
			if err := step.run(ctx, addr, testFar[i]); err != nil {
				return fmt.Errorf("self-test: %s, %v: %w", step.name, addr, err)
			}
		}
	}
	if err := t.listeners.Close(); err != nil {
		return fmt.Errorf("self-test: close listeners: %w", err)
	}
	for i := range t.addrs {
		if err := t.refuse(ctx, testFar[i]); err != nil {
			return fmt.Errorf("self-test: without listeners: %w", err)
		}
	}
	return nil
}

type selfTest struct {
	d         *Datapath
	ns        *netns.NS
	addrs     []netip.Addr
	listeners Listeners
}

func (t *selfTest) enroll(ctx context.Context) error {
	err := t.ns.Do(func() error { return t.configure(ctx) })
	if err != nil {
		return err
	}
	if t.listeners, err = t.d.Listen(ctx, t.ns, nil); err != nil {
		return err
	}
	if err := t.d.Route(t.ns, t.addrs); err != nil {
		return err
	}
	s := Sandbox{NS: t.ns, Addrs: t.addrs, Listeners: t.listeners}
	if err := t.d.SteerInbound(s); err != nil {
		return err
	}
	return t.d.SteerOutbound(s)
}

// configure gives lo the pod's addresses: no other device is needed, as
// nothing that is steered leaves the netns.
func (t *selfTest) configure(ctx context.Context) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	for _, addr := range testPod {
		if addr.Is6() && !hasIPv6() {
			continue
		}
		a := &netlink.Addr{IPNet: netlink.NewIPNet(addr.AsSlice()), Flags: unix.IFA_F_NODAD}
		if err := netlink.AddrAdd(lo, a); err != nil {
			return fmt.Errorf("add %v to lo: %w", addr, err)
		}
		t.addrs = append(t.addrs, addr)
	}
	return settle(ctx, t.addrs)
}

// settle waits until the addresses are there: the kernel adds the local route
// of an IPv6 one some time after it said that it did.
func settle(ctx context.Context, addrs []netip.Addr) error {
	again := time.NewTicker(time.Millisecond)
	defer again.Stop()
	for _, addr := range addrs {
		for {
			routes, err := netlink.RouteGet(addr.AsSlice())
			if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("address %v is not local: %w", addr, ctx.Err())
			case <-again.C:
			}
		}
	}
	return nil
}

func (t *selfTest) leave() error {
	t.listeners.Close()
	return errors.Join(t.d.UnsteerOutbound(t.ns.Cookie()), t.d.UnsteerInbound(t.ns.Cookie()))
}

// steerOutbound connects to a place that does not exist.
func (t *selfTest) steerOutbound(ctx context.Context, pod netip.Addr, far netip.AddrPort) error {
	ln := t.listeners.Outbound4
	if pod.Is6() {
		ln = t.listeners.Outbound6
	}
	app, err := t.ns.Dial(ctx, far, nil)
	if err != nil {
		return fmt.Errorf("connect() was not steered: %w%s", err, t.d.outsideCgroup())
	}
	defer app.Close()
	conn, err := accept(ctx, ln)
	if err != nil {
		return err
	}
	defer conn.Close()
	dst, err := t.d.OriginalDst(conn)
	if err != nil {
		return fmt.Errorf("%w%s", err, t.d.outsideCgroup())
	}
	if dst != far {
		return fmt.Errorf("original destination is %v, want %v", dst, far)
	}
	if peer, err := peerName(app); err != nil || peer != far {
		return fmt.Errorf("getpeername() says %v, %v, want %v", peer, err, far)
	}
	if src := app.LocalAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); src != pod {
		return fmt.Errorf("getsockname() says %v, want %v", src, pod)
	}
	return checkClose(ctx, app, conn)
}

// keepStandIns sends a SYN to a stand-in that no app was sent to, and has an
// app's connection refused: neither may reach a listener.
func (t *selfTest) keepStandIns(ctx context.Context, pod netip.Addr, far netip.AddrPort) error {
	ln := t.listeners.Outbound4
	if pod.Is6() {
		ln = t.listeners.Outbound6
	}
	stray := ln.Addr().(*net.TCPAddr).AddrPort()
	if conn, err := t.d.DialOut(t.ns)(ctx, netip.Addr{}, stray); !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			conn.Close()
		}
		return fmt.Errorf("connect to a listener at %v: %v, want ECONNREFUSED", stray, err)
	}
	if err := t.d.RefuseFor(t.ns.Cookie(), far, selfTestLimit); err != nil {
		return err
	}
	return errors.Join(t.refuse(ctx, far), t.d.RefuseFor(t.ns.Cookie(), far, 0))
}

// steerInbound sends a SYN from elsewhere: from a socket of ours that poses
// as a client, but is not announced.
func (t *selfTest) steerInbound(ctx context.Context, pod netip.Addr, far netip.AddrPort) error {
	plain, hbone := t.listeners.Inbound4, t.listeners.HBONE4
	if pod.Is6() {
		plain, hbone = t.listeners.Inbound6, t.listeners.HBONE6
	}
	for _, steered := range []struct {
		to netip.AddrPort
		ln *net.TCPListener
	}{{netip.AddrPortFrom(pod, 8080), plain}, {netip.AddrPortFrom(pod, hbonePort), hbone}} {
		client, err := t.ns.Dial(ctx, steered.to, func(fd int) error { return pose(fd, far) })
		if err != nil {
			return fmt.Errorf("connect to %v as %v: %w", steered.to, far, err)
		}
		conn, err := accept(ctx, steered.ln)
		if err != nil {
			client.Close()
			return fmt.Errorf("connection to %v was not steered: %w", steered.to, err)
		}
		local := conn.LocalAddr().(*net.TCPAddr).AddrPort()
		conn.SetLinger(0)
		client.SetLinger(0)
		conn.Close()
		client.Close()
		if local != steered.to {
			return fmt.Errorf("steered connection says it is to %v, want %v", local, steered.to)
		}
	}
	return nil
}

// reachApp opens a leg to an app, and to a port where there is none.
func (t *selfTest) reachApp(ctx context.Context, pod netip.Addr, far netip.AddrPort) error {
	app, err := t.ns.Listen(ctx, netip.AddrPortFrom(pod, 0), nil)
	if err != nil {
		return err
	}
	defer app.Close()
	dial := t.d.DialInner(t.ns)
	to := app.Addr().(*net.TCPAddr).AddrPort()
	leg, err := dial(ctx, far, to)
	if err != nil {
		return err
	}
	defer leg.Close()
	conn, err := accept(ctx, app)
	if err != nil {
		return err
	}
	defer conn.Close()
	if src := conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap(); src != far.Addr() {
		return fmt.Errorf("the app sees %v, want %v", src, far.Addr())
	}
	if err := checkClose(ctx, leg, conn); err != nil {
		return err
	}
	app.Close()
	if leg, err := dial(ctx, far, to); !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			leg.Close()
		}
		return fmt.Errorf("a port without an app: %w, want ECONNREFUSED", err)
	}
	return nil
}

// refuse tries what steerOutbound did, now that nobody listens.
func (t *selfTest) refuse(ctx context.Context, far netip.AddrPort) error {
	app, err := t.ns.Dial(ctx, far, nil)
	if errors.Is(err, unix.ECONNREFUSED) {
		return nil
	}
	if err == nil {
		app.Close()
	}
	return fmt.Errorf("connect to %v: %v, want ECONNREFUSED", far, err)
}

// checkClose checks that each side sees the other half-close, then reset.
func checkClose(ctx context.Context, a, b *net.TCPConn) error {
	deadline, _ := ctx.Deadline()
	a.SetDeadline(deadline)
	b.SetDeadline(deadline)
	if _, err := a.Write([]byte("ping")); err != nil {
		return err
	}
	if err := a.CloseWrite(); err != nil {
		return err
	}
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "ping" {
		return fmt.Errorf("half-close: read %q, %w", got, err)
	}
	b.SetLinger(0)
	b.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		return fmt.Errorf("reset: read says %v, want ECONNRESET", err)
	}
	return nil
}

func accept(ctx context.Context, ln *net.TCPListener) (*net.TCPConn, error) {
	deadline, _ := ctx.Deadline()
	ln.SetDeadline(deadline)
	return ln.AcceptTCP()
}

// peerName asks the kernel: package net remembers what it dialled.
func peerName(conn *net.TCPConn) (peer netip.AddrPort, err error) {
	failed := withFd(conn, func(fd int) error {
		sa, err := unix.Getpeername(fd)
		switch sa := sa.(type) {
		case *unix.SockaddrInet4:
			peer = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			peer = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
		}
		return err
	})
	return peer, failed
}

// outsideCgroup explains the usual reason for not being seen.
func (d *Datapath) outsideCgroup() string {
	if err := d.AboveProcess(os.Getpid()); err != nil {
		return fmt.Sprintf(" (%v)", err)
	}
	return ""
}
