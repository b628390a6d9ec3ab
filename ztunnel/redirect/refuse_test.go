// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wantRefusedAtOnce connects by blocking and non-blocking sockets. Nothing may
// reach the listener.
func wantRefusedAtOnce(t *testing.T, p *testPodNS, to netip.AddrPort, prepare func(int) error) {
	t.Helper()
	af := afOf(to.Addr().Is6())
	p.in(p.ns, func() error {
		if _, err := plainClient(prepare)(af, sockaddr(to)); err != unix.ECONNREFUSED {
			t.Errorf("blocking connect to %v: %v, want ECONNREFUSED", to, err)
		}
		fd, err := rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, prepare)(af, sockaddr(to))
		if err == unix.ECONNREFUSED {
			return nil
		}
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}, 10_000)
		if err != nil || n != 1 {
			t.Errorf("non-blocking connect to %v: poll %d, %v", to, n, err)
		}
		if code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil || unix.Errno(code) != unix.ECONNREFUSED {
			t.Errorf("non-blocking connect to %v: %v, %v, want ECONNREFUSED", to, unix.Errno(code), err)
		}
		return nil
	})
	ln := p.outbound(to.Addr().Is6())
	ln.SetDeadline(time.Now())
	if conn, err := ln.AcceptTCP(); err == nil {
		conn.Close()
		t.Errorf("a refused connection to %v reached ztunnel", to)
	}
	ln.SetDeadline(time.Time{})
}

func TestDestinationsWithNobodyReadyAreRefusedToAllPods(t *testing.T) {
	w := newWorld(t)
	one, two := w.enrolled(), w.enrolled()
	for _, six := range []bool{false, true} {
		far := servers(3, six)
		if err := w.d.SetNobody(far[:2]); err != nil {
			t.Fatal(err)
		}
		before := w.d.Stats()["outbound_refused_nobody"]
		for _, p := range []*testPodNS{one, two} {
			wantRefusedAtOnce(t, p, far[0], nil)
			wantRefusedAtOnce(t, p, far[1], nil)
			// Refused twins: another port of the same address, another address.
			for _, to := range []netip.AddrPort{netip.AddrPortFrom(far[0].Addr(), 81), far[2]} {
				if _, _, err := p.carried(plainClient(nil), six, to); err != nil {
					t.Error(err)
				}
			}
		}
		if got := w.d.Stats()["outbound_refused_nobody"] - before; got != 8 {
			t.Errorf("%d refusals are counted, want 8", got)
		}
		if err := w.d.SetNobody(far[1:2]); err != nil {
			t.Fatal(err)
		}
		if _, _, err := one.carried(plainClient(nil), six, far[0]); err != nil {
			t.Error("somebody is ready again:", err)
		}
		wantRefusedAtOnce(t, one, far[1], nil)
		wantRefusedAtOnce(t, one, far[1], bindTo(one.addr(six), 0))
		wantRefusedAtOnce(t, one, far[1], bindTo(loopbackOf(far[1].Addr()), 0))
		wantRefusedAtOnce(t, one, far[1], func(fd int) error { return unix.BindToDevice(fd, "eth0") })
	}
	// v4-mapped, and a socket that is connected again elsewhere.
	if err := w.d.SetNobody(servers(1, false)); err != nil {
		t.Fatal(err)
	}
	one.in(one.ns, func() error {
		fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		mapped := func(to netip.AddrPort) unix.Sockaddr {
			return &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
		}
		if err := unix.Connect(fd, mapped(servers(1, false)[0])); err != unix.ECONNREFUSED {
			t.Errorf("v4-mapped: %v, want ECONNREFUSED", err)
		}
		return unix.Connect(fd, mapped(servers(2, false)[1]))
	})
}

func TestAPodIsRefusedForAWhileWhatCouldNotBeReached(t *testing.T) {
	w := newWorld(t)
	one, two := w.enrolled(), w.enrolled()
	for _, six := range []bool{false, true} {
		to := servers(1, six)[0]
		if err := w.d.RefuseFor(one.ns.Cookie(), to, time.Hour); err != nil {
			t.Fatal(err)
		}
		wantRefusedAtOnce(t, one, to, nil)
		if _, _, err := two.carried(plainClient(nil), six, to); err != nil {
			t.Error("another pod:", err)
		}
		// Its time is over; the kernel's clock may lag by a tick.
		key := meshPodEndpoint{Netns: uint64(one.ns.Cookie()), Dst: wireEndpoint(to)}
		if err := w.d.mesh.RefusedUntil.Put(key, monotonic()-uint64(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := one.carried(plainClient(nil), six, to); err != nil {
			t.Error(err)
		}
		if err := errors.Join(w.d.RefuseFor(one.ns.Cookie(), to, time.Hour), w.d.RefuseFor(one.ns.Cookie(), to, 0)); err != nil {
			t.Fatal(err)
		}
		if _, _, err := one.carried(plainClient(nil), six, to); err != nil {
			t.Error("after it was taken back:", err)
		}
	}
	// It goes with the pod.
	if err := w.d.RefuseFor(one.ns.Cookie(), servers(1, false)[0], time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := w.d.UnsteerOutbound(one.ns.Cookie()); err != nil {
		t.Fatal(err)
	}
	if n := count(t, w.d.mesh.RefusedUntil); n != 0 {
		t.Errorf("%d entries are left of a pod that was let go", n)
	}
}

// What a pod has of its own and what is excluded is not ztunnel's to refuse.
func TestOnlyWhatIsSteeredIsRefused(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.ExcludePorts = []uint16{7777} })
	p := w.enrolled()
	own, excluded := netip.AddrPortFrom(p.v4, 8080), netip.AddrPortFrom(node4, 7777)
	serve(t, p.listen(own), "app")
	ln, err := w.ns.Listen(t.Context(), excluded, nil)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, "node")
	if err := w.d.SetNobody([]netip.AddrPort{own, excluded}); err != nil {
		t.Fatal(err)
	}
	wantServer(t, p.ns, own, "app")
	wantServer(t, p.ns, excluded, "node")
	other := w.pod() // not enrolled
	serve(t, must(w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)), "node")
	if err := w.d.SetNobody([]netip.AddrPort{netip.AddrPortFrom(node4, 8080)}); err != nil {
		t.Fatal(err)
	}
	wantServer(t, other.ns, netip.AddrPortFrom(node4, 8080), "node")
	if err := w.d.forgetNobody(); err != nil || count(t, w.d.mesh.Nobody) != 0 {
		t.Errorf("%d destinations are left, %v", count(t, w.d.mesh.Nobody), err)
	}
}

func TestMoreDestinationsThanFitAreSaidSo(t *testing.T) {
	w := newWorld(t)
	var all []netip.AddrPort
	for i := range w.d.mesh.Nobody.MaxEntries() + 1 {
		all = append(all, netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i)), 80))
	}
	if err := w.d.SetNobody(all); !errors.Is(err, ErrTooMany) {
		t.Errorf("SetNobody: %v, want ErrTooMany", err)
	}
	if err := w.d.SetNobody(all[1:]); err != nil {
		t.Errorf("SetNobody with what fits: %v", err)
	}
	// The negative cache is an LRU: one more is no error.
	for i := range w.d.mesh.RefusedUntil.MaxEntries() + 100 {
		if err := w.d.RefuseFor(1, netip.AddrPortFrom(far4, uint16(i)), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
}

// An entry that nobody took must not let a refused connection through.
func TestARefusedConnectionPublishesNothing(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	to := servers(1, false)[0]
	from := netip.AddrPortFrom(p.v4, 2020)
	_, conn, err := p.carried(plainClient(bindTo(from.Addr(), from.Port())), false, to)
	if err != nil {
		t.Fatal(err)
	}
	flow := wireFlow(p.ns.Cookie(), from, addrPort(conn.LocalAddr()))
	conn.SetLinger(0)
	conn.Close() // resets both ends: the port is free
	if err := w.d.mesh.OriginalDst.Put(flow, meshPublished{Dst: wireEndpoint(to), Since: monotonic()}); err != nil {
		t.Fatal(err)
	}
	if err := w.d.SetNobody([]netip.AddrPort{to}); err != nil {
		t.Fatal(err)
	}
	p.in(p.ns, func() error {
		if _, err := plainClient(bindTo(from.Addr(), from.Port()))(unix.AF_INET, sockaddr(to)); err != unix.ECONNREFUSED {
			t.Errorf("connect: %v, want ECONNREFUSED", err)
		}
		return nil
	})
	if n := count(t, w.d.mesh.OriginalDst); n != 0 {
		t.Errorf("%d destinations are published, want none", n)
	}
}

// IPv6 that is switched off after enrolment is refused at once, and back when it
// is switched on.
func TestIPv6ThatGoesIsRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	w.in(p.ns, func() error { return writeSysctl("net/ipv6/conf/all/disable_ipv6", "1") })
	p.in(p.ns, func() error {
		_, err := plainClient(nil)(unix.AF_INET6, sockaddr(servers(1, true)[0]))
		if err != unix.ENETUNREACH && err != unix.EADDRNOTAVAIL && err != unix.EHOSTUNREACH {
			t.Errorf("connect: %v, want ENETUNREACH", err)
		}
		return nil
	})
	wantServer(t, p.ns, servers(1, false)[0], "outbound")
	if _, err := w.d.Verify(t.Context()); err != nil {
		t.Errorf("Verify: %v", err)
	}
	w.in(p.ns, func() error {
		return errors.Join(writeSysctl("net/ipv6/conf/all/disable_ipv6", "0"), addAddr("eth0", p.v6, 128), settle(t.Context(), []netip.Addr{p.v6}))
	})
	if _, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil {
		t.Errorf("VerifyRoute: %v", err)
	}
	wantServer(t, p.ns, servers(1, true)[0], "outbound")
}
