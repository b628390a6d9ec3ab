// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// tryPorts listens on each port from low to high and returns those that are
// refused.
func tryPorts(p *testPodNS, at netip.Addr, low, high int) (refused []int) {
	p.t.Helper()
	p.in(p.ns, func() error {
		for port := low; port <= high; port++ {
			err := tryPort(netip.AddrPortFrom(at, uint16(port)))
			if errors.Is(err, unix.EADDRINUSE) {
				refused = append(refused, port)
			} else if err != nil {
				return err
			}
		}
		return nil
	})
	return refused
}

// tryPort listens as a server does that allows IPv4 on its IPv6 socket.
func tryPort(at netip.AddrPort) error {
	fd, err := unix.Socket(afOf(at.Addr().Is6()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(at)); err != nil {
		return err
	}
	return unix.Listen(fd, 1)
}

func TestAnAppMayListenOnAnyPortButOne(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, at := range []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()} {
		if refused := tryPorts(p, at, 1, 65535); len(refused) != 1 || refused[0] != hbonePort {
			t.Errorf("on %v, refused are %v; want %d", at, refused, hbonePort)
		}
	}
	for _, at := range []netip.Addr{p.v4, p.v6, netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()} {
		if refused := tryPorts(p, at, hbonePort-100, hbonePort+100); len(refused) != 0 {
			t.Errorf("on %v, refused are %v; want none", at, refused)
		}
	}
}

func TestAPortThatThePodDeclaresOrUsesIsLeftToIt(t *testing.T) {
	portOf := func(l Listeners) uint16 { return addrPort(l.Outbound4.Addr()).Port() }
	for name, tc := range map[string]struct {
		prepare  func(p *testPodNS)
		declared []uint16
		same     bool
	}{
		"nothing declared":    {nil, nil, true},
		"other port declared": {nil, []uint16{8080}, true},
		"declared":            {nil, []uint16{8080, hbonePort}, false},
		"in use":              {func(p *testPodNS) { p.listen(netip.AddrPortFrom(netip.IPv6Unspecified(), hbonePort)) }, nil, false},
		"handed out": {func(p *testPodNS) {
			p.in(p.ns, func() error { return writeSysctl("net/ipv4/ip_local_port_range", "10000 60999") })
		}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pod()
			if tc.prepare != nil {
				tc.prepare(p)
			}
			p.declared = tc.declared
			p.enroll(w.d)
			port := portOf(p.s.Listeners)
			if (port == hbonePort) != tc.same {
				t.Errorf("listens on port %d", port)
			}
			for _, ln := range p.s.Listeners.all() {
				if at := addrPort(ln.Addr()); at.Port() != port || !isStandIn(at.Addr()) {
					t.Errorf("listens on %v too", at)
				}
			}
			p.serveAll()
			if !tc.same && name != "in use" {
				serve(t, p.listen(netip.AddrPortFrom(netip.IPv4Unspecified(), hbonePort)), "app")
				wantServer(t, p.ns, netip.AddrPortFrom(p.v4, hbonePort), "app")
			}
			for _, six := range []bool{false, true} {
				wantServer(t, p.ns, servers(1, six)[0], "outbound")
				wantServer(t, w.ns, netip.AddrPortFrom(p.addr(six), 8080), "plaintext")
				wantServer(t, w.ns, netip.AddrPortFrom(p.addr(six), hbonePort), "hbone")
			}
		})
	}
}

// An app that listens on the very port of ours, on an address of its own, gets
// none of what is steered: bound to loopback, an app is steered to that address.
func TestAnAppOnOurPortGetsNothingThatIsSteered(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	for _, six := range []bool{false, true} {
		serve(t, p.listen(netip.AddrPortFrom(p.addr(six), hbonePort)), "app")
		wantServer(t, p.ns, servers(1, six)[0], "outbound")
		wantServer(t, p.ns, servers(1, six)[0], "outbound", bindTo(loopbackOf(p.addr(six)), 0))
		wantServer(t, p.ns, netip.AddrPortFrom(p.addr(six), hbonePort), "app", bindTo(loopbackOf(p.addr(six)), 0))
	}
}
