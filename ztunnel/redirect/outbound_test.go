// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// client opens a connection from inside the pod by raw system calls, as the
// dialects of connect() are what is tested. It returns the socket.
type client func(family int, to unix.Sockaddr) (fd int, err error)

func plainClient(prepare func(fd int) error) client {
	return rawClient(unix.SOCK_STREAM, 0, prepare)
}

func rawClient(kind, proto int, prepare func(fd int) error) client {
	return func(family int, to unix.Sockaddr) (int, error) {
		fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
		if err != nil {
			return -1, err
		}
		if prepare != nil {
			if err := prepare(fd); err != nil {
				unix.Close(fd)
				return -1, err
			}
		}
		if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
			unix.Close(fd)
			return -1, err
		}
		return fd, nil
	}
}

func fastOpen(family int, to unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Sendto(fd, []byte("hi"), unix.MSG_FASTOPEN, to); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func fastOpenConnect(family int, to unix.Sockaddr) (int, error) {
	fd, err := plainClient(func(fd int) error {
		return unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_FASTOPEN_CONNECT, 1)
	})(family, to)
	if err == nil {
		_, err = unix.Write(fd, []byte("hi"))
	}
	return fd, err
}

func sockaddr(to netip.AddrPort) unix.Sockaddr {
	if to.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	}
	return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
}

func fromSockaddr(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func TestEveryKindOfConnectIsSteered(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, tc := range []struct {
		name   string
		client func(six bool) client
		peer   bool // getpeername() shows the original destination
	}{
		{"blocking", func(bool) client { return plainClient(nil) }, true},
		{"nonblocking", func(bool) client { return rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, nil) }, true},
		{"MSG_FASTOPEN", func(bool) client { return fastOpen }, true},
		{"TCP_FASTOPEN_CONNECT", func(bool) client { return fastOpenConnect }, true},
		{"MPTCP", func(bool) client { return rawClient(unix.SOCK_STREAM, unix.IPPROTO_MPTCP, nil) }, false},
		{"bound source", func(six bool) client { return plainClient(bindTo(p.addr(six), 0)) }, true},
		{"bound port", func(six bool) client { return plainClient(bindTo(p.addr(six), 4321)) }, true},
		{"bound to loopback", func(six bool) client {
			lo := netip.MustParseAddr("127.0.0.1")
			if six {
				lo = netip.IPv6Loopback()
			}
			return plainClient(bindTo(lo, 0))
		}, true},
		{"SO_BINDTODEVICE", func(bool) client {
			return plainClient(func(fd int) error { return unix.BindToDevice(fd, "eth0") })
		}, true},
		{"forged mark", func(bool) client {
			return plainClient(func(fd int) error {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, innerMark)
			})
		}, true},
		{"second connect after a refusal", func(six bool) client {
			return func(family int, to unix.Sockaddr) (int, error) { return connectTwice(p, six, family, to) }
		}, true},
	} {
		for _, six := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/%s", tc.name, family(six)), func(t *testing.T) {
				far := netip.AddrPortFrom(far4, 4242)
				af := unix.AF_INET
				if six {
					far, af = netip.AddrPortFrom(far6, 4242), unix.AF_INET6
				}
				checkSteered(t, p, tc.client(six), af, sockaddr(far), far, tc.peer, strings.HasPrefix(tc.name, "bound"))
			})
		}
	}
	t.Run("v4-mapped", func(t *testing.T) {
		far := netip.AddrPortFrom(far4, 4242)
		sa := &unix.SockaddrInet6{Addr: far4.As16(), Port: 4242}
		checkSteered(t, p, plainClient(nil), unix.AF_INET6, sa, far, true, false)
		checkSteered(t, p, plainClient(func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.IPv4Unspecified().As16()})
		}), unix.AF_INET6, sa, far, true, false)
		checkSteered(t, p, plainClient(func(fd int) error {
			return unix.Bind(fd, &unix.SockaddrInet6{Addr: p.v4.As16()})
		}), unix.AF_INET6, sa, far, true, true)
	})
}

func family(six bool) string {
	if six {
		return "v6"
	}
	return "v4"
}

func checkSteered(t *testing.T, p *testPodNS, c client, af int, sa unix.Sockaddr, far netip.AddrPort, peer, bound bool) {
	t.Helper()
	six := far.Addr().Is6()
	fd := -1
	p.in(p.ns, func() (err error) {
		fd, err = c(af, sa)
		return err
	})
	defer unix.Close(fd)
	ln := p.outbound(six)
	ln.SetDeadline(time.Now().Add(patience))
	conn, err := ln.AcceptTCP()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if dst, err := p.d.OriginalDst(conn); err != nil || dst != far {
		t.Errorf("original destination %v, %v; want %v", dst, err, far)
	}
	if addr := p.d.Bound(conn); addr.IsValid() != bound || bound && addr != addrOf(conn.RemoteAddr()) {
		t.Errorf("the app bound its source to %v, from %v; want it said: %v", addr, conn.RemoteAddr(), bound)
	}
	got, err := unix.Getpeername(fd)
	if err != nil || peer && fromSockaddr(got) != far {
		t.Errorf("getpeername() = %v, %v; want %v", fromSockaddr(got), err, far)
	}
	name, err := unix.Getsockname(fd)
	if addr := fromSockaddr(name).Addr(); err != nil || addr != p.addr(six) && !addr.IsLoopback() {
		t.Errorf("getsockname() = %v, %v; want %v", fromSockaddr(name), err, p.addr(six))
	}
}

func addrOf(a net.Addr) netip.Addr { return a.(*net.TCPAddr).AddrPort().Addr().Unmap() }

// connectTwice is refused by the pod's own loopback, then connects the same
// socket to where it is steered.
func connectTwice(p *testPodNS, six bool, family int, to unix.Sockaddr) (int, error) {
	nobody := netip.AddrPortFrom(p.addr(six), 9)
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(nobody)); err != unix.ECONNREFUSED {
		return fd, fmt.Errorf("first connect: %v, want ECONNREFUSED", err)
	}
	return fd, unix.Connect(fd, to)
}

func TestReusedSocketForgetsItsOriginalDestination(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	app := p.listen(netip.AddrPortFrom(p.v4, 8080))
	p.in(p.ns, func() error {
		fd, err := plainClient(nil)(unix.AF_INET, sockaddr(netip.AddrPortFrom(far4, 4242)))
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := connectUnspec(fd); err != nil {
			return err
		}
		if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(p.v4, 8080))); err != nil {
			return err
		}
		peer, err := unix.Getpeername(fd)
		if want := app.Addr().(*net.TCPAddr).AddrPort(); err != nil || fromSockaddr(peer) != want {
			t.Errorf("getpeername() = %v, %v; want %v", fromSockaddr(peer), err, want)
		}
		return nil
	})
}

// connectUnspec dissolves a connection: connect(2), AF_UNSPEC.
func connectUnspec(fd int) error {
	var sa [16]byte
	return rawConnect(fd, sa[:])
}

func TestExemptDestinationsAreReachedDirectly(t *testing.T) {
	excluded := netip.MustParseAddr("198.51.100.200")
	excluded6 := netip.MustParseAddr("2001:db8:aaaa::1")
	w := newWorld(t, func(o *Options) {
		o.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("198.51.100.128/25"), netip.MustParsePrefix("2001:db8:aaaa::/48")}
		o.ExcludePorts = []uint16{7777}
	})
	w.in(w.ns, func() error {
		return errors.Join(addAddr("lo", excluded, 32), addAddr("lo", excluded6, 128))
	})
	p := w.enrolled()
	second := netip.MustParseAddr("10.99.0.2")
	w.in(p.ns, func() error { return addAddr("eth0", second, 32) })
	p.s.Addrs = append(p.s.Addrs, second)
	if err := errors.Join(w.d.SteerInbound(p.s), w.d.SteerOutbound(p.s)); err != nil {
		t.Fatal(err)
	}
	p.serveAll()
	for _, at := range []string{"0.0.0.0:8080", "[::]:8080"} {
		serve(t, p.listen(netip.MustParseAddrPort(at)), "app")
	}
	for _, at := range []string{"0.0.0.0:8080", "[::]:8080", "0.0.0.0:7777"} {
		ln, err := w.ns.Listen(t.Context(), netip.MustParseAddrPort(at), nil)
		if err != nil {
			t.Fatal(err)
		}
		serve(t, ln, "node")
	}
	for _, own := range []netip.Addr{
		netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.1.2.3"), netip.IPv4Unspecified(),
		netip.IPv6Loopback(), netip.IPv6Unspecified(), p.v4, p.v6, second,
	} {
		wantServer(t, p.ns, netip.AddrPortFrom(own, 8080), "app")
	}
	wantServer(t, p.ns, netip.AddrPortFrom(excluded, 8080), "node")
	wantServer(t, p.ns, netip.AddrPortFrom(excluded6, 8080), "node")
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 7777), "node")
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	wantServer(t, p.ns, netip.AddrPortFrom(node6, 8080), "outbound")
	wantServer(t, p.ns, netip.AddrPortFrom(client4, 8080), "outbound")

	dial := w.d.DialOut(p.ns)
	for _, to := range []netip.Addr{node4, node6} {
		conn, err := dial(t.Context(), p.addr(to.Is6()), netip.AddrPortFrom(to, 8080))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := greeting(conn); err != nil || got[:4] != "node" {
			t.Errorf("ztunnel's own connection to %v reaches %q, %v", to, got, err)
		}
	}
	// Options of a later run replace those of an earlier one.
	w.opts.ExcludeCIDRs, w.opts.ExcludePorts = nil, nil
	w.d.Close()
	w.d = load(t, w.opts)
	wantServer(t, p.ns, netip.AddrPortFrom(excluded, 8080), "outbound")
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 7777), "outbound")
}

func TestPodsThatAreNotEnrolledAreLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.enrolled()
	other := w.pod()
	ln, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, "node")
	wantServer(t, other.ns, netip.AddrPortFrom(node4, 8080), "node")
	serve(t, other.listen(netip.AddrPortFrom(other.v4, 8080)), "app")
	wantServer(t, w.ns, netip.AddrPortFrom(other.v4, 8080), "app")
}

func TestUDPPasses(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, addr := range []netip.Addr{node4, node6} {
		var in, out net.PacketConn
		w.in(w.ns, func() (err error) {
			in, err = net.ListenPacket("udp", netip.AddrPortFrom(addr, 5353).String())
			return err
		})
		w.in(p.ns, func() (err error) {
			out, err = net.ListenPacket("udp", netip.AddrPortFrom(p.addr(addr.Is6()), 5353).String())
			return err
		})
		defer in.Close()
		defer out.Close()
		buf := make([]byte, 16)
		for _, dir := range []struct{ from, to net.PacketConn }{{out, in}, {in, out}} {
			if _, err := dir.from.WriteTo([]byte("hello"), dir.to.LocalAddr()); err != nil {
				t.Fatal(err)
			}
			dir.to.SetReadDeadline(time.Now().Add(patience))
			if n, from, err := dir.to.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" || from.String() != dir.from.LocalAddr().String() {
				t.Errorf("%v got %q from %v, %v", dir.to.LocalAddr(), buf[:n], from, err)
			}
		}
	}
}

func TestConnectsAreRefusedWithoutAListener(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.s.Listeners.Close()
	wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
	wantRefused(t, p.ns, netip.AddrPortFrom(node6, 8080), nil)
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v6, hbonePort), nil)
}

func TestFamilyThatIsNotEnrolledIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	w.in(p.ns, func() error { return writeSysctl("net/ipv6/conf/lo/disable_ipv6", "1") })
	p.enroll(w.d)
	_, err := ask(p.ns, netip.AddrPortFrom(node6, 8080), nil)
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("IPv6 connect: %v, want EPERM", err)
	}
	p.serveAll()
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
}

func TestLinkLocalDestinationsAreRefused(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.in(p.ns, func() error {
		sa := &unix.SockaddrInet6{Addr: netip.MustParseAddr("fe80::1").As16(), Port: 80, ZoneId: 2}
		if _, err := plainClient(nil)(unix.AF_INET6, sa); err != unix.EPERM {
			t.Errorf("connect to fe80::1: %v, want EPERM", err)
		}
		return nil
	})
}

func TestNobodyReachesZtunnelsListenersByTheirAddresses(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	for _, ln := range p.s.Listeners.all() {
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		// The app's connection is steered, as to anywhere; ztunnel's is refused.
		wantServer(t, p.ns, at, "outbound")
		if _, err := w.d.DialOut(p.ns)(t.Context(), netip.Addr{}, at); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("ztunnel dials its own listener %v: %v, want ECONNREFUSED", at, err)
		}
		for _, own := range []netip.Addr{p.addr(at.Addr().Is6()), loopbackOf(at.Addr())} {
			wantRefused(t, p.ns, netip.AddrPortFrom(own, at.Port()), nil)
		}
	}
}

func loopbackOf(family netip.Addr) netip.Addr {
	if family.Is6() {
		return netip.IPv6Loopback()
	}
	return netip.MustParseAddr("127.0.0.1")
}

func TestFullPodMapRefusesEnrollment(t *testing.T) {
	w := newWorld(t)
	m := w.d.mesh.Pods
	for i := range m.MaxEntries() {
		if err := m.Put(1<<40|uint64(i), meshPod{}); err != nil {
			t.Fatal(err)
		}
	}
	p := w.pod()
	addrs := []netip.Addr{p.v4, p.v6}
	lns, err := w.d.Listen(t.Context(), p.ns, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lns.Close()
	if err := w.d.Route(p.ns, addrs); err != nil {
		t.Fatal(err)
	}
	err = w.d.SteerOutbound(Sandbox{NS: p.ns, Addrs: addrs, Listeners: lns})
	if !errors.Is(err, unix.ENOBUFS) {
		t.Errorf("SteerOutbound: %v, want ENOBUFS", err)
	}
}
