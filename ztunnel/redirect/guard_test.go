// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// sniffer has every packet that passes the node's end of a pod's device.
type sniffer struct {
	p  *testPodNS
	fd int
}

func (p *testPodNS) sniff() *sniffer {
	p.t.Helper()
	s := &sniffer{p, -1}
	p.in(p.world.ns, func() (err error) {
		l, err := netlink.LinkByName(p.device)
		if err != nil {
			return err
		}
		all := uint16(unix.ETH_P_ALL)<<8 | uint16(unix.ETH_P_ALL)>>8
		if s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, int(all)); err != nil {
			return err
		}
		timeout := unix.NsecToTimeval(int64(10 * time.Second))
		return errors.Join(
			unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
			unix.SetsockoptTimeval(s.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
			unix.Bind(s.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}))
	})
	p.t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

// packets returns what passed until now: it sends a last packet and reads up to
// that.
func (s *sniffer) packets() (found [][]byte) {
	s.p.t.Helper()
	const last = "this was the last packet"
	s.p.in(s.p.ns, func() error {
		conn, err := net.Dial("udp4", netip.AddrPortFrom(node4, 9).String())
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(last))
		return err
	})
	for {
		buf := make([]byte, 65536)
		n, _, err := unix.Recvfrom(s.fd, buf, 0)
		if err != nil {
			s.p.t.Fatalf("read packets of %s: %v", s.p.device, err)
		}
		if bytes.Contains(buf[:n], []byte(last)) {
			return found
		}
		found = append(found, buf[:n])
	}
}

const secret = "plaintext that must not leave the pod"

// wantNothing fails if the secret passed, or a packet to or from a stand-in.
func (s *sniffer) wantNothing() {
	s.p.t.Helper()
	for _, packet := range s.packets() {
		if bytes.Contains(packet, []byte(secret)) {
			s.p.t.Errorf("the payload is on the wire: %x", packet)
		}
		if src, dst, ok := ends(packet); ok && (isStandIn(src) || isStandIn(dst)) {
			s.p.t.Errorf("a stand-in is on the wire: %v to %v", src, dst)
		}
	}
}

func isStandIn(addr netip.Addr) bool {
	return slices.ContainsFunc(defaultStandIns, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// ends are the addresses of an IP packet.
func ends(packet []byte) (src, dst netip.Addr, ok bool) {
	at, size := 12, 4
	if len(packet) > 0 && packet[0]>>4 == 6 {
		at, size = 8, 16
	}
	if len(packet) < at+2*size || packet[0]>>4 != 4 && packet[0]>>4 != 6 {
		return src, dst, false
	}
	src, _ = netip.AddrFromSlice(packet[at : at+size])
	dst, _ = netip.AddrFromSlice(packet[at+size : at+2*size])
	return src, dst, true
}

// removals of what keeps stand-ins inside a pod, as another hand could do them.
func removeStandInRoutes(family int) error {
	prefix := ipNet(defaultStandIns[index(family == unix.AF_INET6)])
	for {
		err := netlink.RouteDel(&netlink.Route{Dst: prefix, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Family: family})
		if err != nil {
			return ignoring(err, unix.ESRCH, unix.ENOENT)
		}
	}
}

func removeGuard(family int) error {
	rule := netlink.NewRule()
	rule.Family, rule.Priority = family, guardPriority
	rule.Dst = ipNet(defaultStandIns[index(family == unix.AF_INET6)])
	return netlink.RuleDel(rule)
}

func removeBarrier(family int) error {
	return netlink.RouteDel(&netlink.Route{
		Dst: ipNet(defaultStandIns[index(family == unix.AF_INET6)]), Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNREACHABLE, Family: family,
	})
}

// Whatever of the routing of stand-ins is lost, connections stop: neither new
// ones nor those that are open send anything to the wire.
func TestNothingLeavesThePodWhenStandInsAreNotLocal(t *testing.T) {
	for _, tc := range []struct {
		name    string
		remove  []func(family int) error
		blocked bool // while Verify has not come by
	}{
		{"guard rule gone", []func(int) error{removeGuard}, false},
		{"barrier gone", []func(int) error{removeBarrier}, false},
		{"routes gone", []func(int) error{removeStandInRoutes}, true},
		{"routes and guard rule gone", []func(int) error{removeStandInRoutes, removeGuard}, true},
		{"routes and barrier gone", []func(int) error{removeStandInRoutes, removeBarrier}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			s := p.sniff()
			for _, six := range []bool{false, true} {
				fd, _, err := p.carried(plainClient(nil), six, servers(1, six)[0])
				if err != nil {
					t.Fatal(err)
				}
				w.in(p.ns, func() (err error) {
					for _, remove := range tc.remove {
						err = errors.Join(err, remove(afOf(six)))
					}
					return err
				})
				// It may be buffered, or fail; and so may a new connection.
				unix.Write(fd, []byte(secret))
				err = p.ns.Do(func() error {
					fd, err := rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, nil)(afOf(six), sockaddr(servers(2, six)[1]))
					if err == nil {
						unix.Write(fd, []byte(secret))
						unix.Close(fd)
					}
					return err
				})
				if tc.blocked && !errors.Is(err, unix.ENETUNREACH) && !errors.Is(err, unix.EHOSTUNREACH) {
					t.Errorf("%s connect: %v, want ENETUNREACH or EHOSTUNREACH", family(six), err)
				}
				if !tc.blocked && err != nil {
					t.Errorf("%s connect: %v", family(six), err)
				}
				s.wantNothing()
			}
			wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs)
			if err != nil || !strings.HasPrefix(wrong, "routing of netns ") {
				t.Errorf("VerifyRoute: %q, %v", wrong, err)
			}
			if wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || wrong != "" {
				t.Errorf("VerifyRoute again: %q, %v", wrong, err)
			}
			p.serveAll()
			for _, six := range []bool{false, true} {
				wantServer(t, p.ns, servers(3, six)[2], "outbound")
			}
		})
	}
}

// The test above is not blind: with all three gone, it sees what leaves.
func TestTheSnifferSeesWhatLeavesWithoutAnyBarrier(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	s := p.sniff()
	w.in(p.ns, func() error {
		return errors.Join(removeStandInRoutes(unix.AF_INET), removeGuard(unix.AF_INET), removeBarrier(unix.AF_INET))
	})
	p.in(p.ns, func() error {
		fd, err := rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, nil)(unix.AF_INET, sockaddr(servers(1, false)[0]))
		if err == nil {
			unix.Close(fd)
		}
		return err
	})
	if !slices.ContainsFunc(s.packets(), func(packet []byte) bool { _, dst, _ := ends(packet); return isStandIn(dst) }) {
		t.Error("nothing was seen")
	}
}

// A pod may have rules of its own, as VPNs do: one that takes everything must
// not take what is addressed to a stand-in.
func TestAPodsOwnRulesDoNotTakeStandIns(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	s := p.sniff()
	w.in(p.ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		all := netlink.NewRule()
		all.Family, all.Priority, all.Table = unix.AF_INET, 100, 77
		return errors.Join(netlink.RuleAdd(all),
			netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Attrs().Index, Dst: ipNet(netip.MustParsePrefix("0.0.0.0/0")), Table: 77, Gw: node4.AsSlice()}))
	})
	p.serveAll()
	wantServer(t, p.ns, servers(1, false)[0], "outbound")
	w.in(p.ns, func() error { return removeStandInRoutes(unix.AF_INET) })
	if _, err := ask(p.ns, servers(2, false)[1], nil); err == nil {
		t.Error("connected without a route")
	}
	s.wantNothing()
}

func TestRoutingFollowsDevicesAndAddresses(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	onEth1 := func(fd int) error { return unix.BindToDevice(fd, "eth1") }
	second, second6 := netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd99::2")
	w.in(p.ns, func() error {
		return errors.Join(
			netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth1"}, PeerName: "eth1-peer"}),
			linkUp("eth1"), addAddr("eth1", second, 24), addAddr("eth1", second6, 64))
	})
	far := servers(1, false)[0]
	if _, err := ask(p.ns, far, onEth1); err == nil {
		t.Error("steered by a device that has no route of stand-ins")
	}
	addrs := []netip.Addr{p.v4, p.v6, second, second6}
	found, err := w.d.CheckRoute(p.ns, addrs)
	if err != nil || !slices.Equal(found.Missing, []string{"IPv4 route of stand-ins by eth1", "IPv6 route of stand-ins by eth1"}) {
		t.Errorf("CheckRoute: %+v, %v", found, err)
	}
	follow := func(addrs ...netip.Addr) {
		t.Helper()
		p.s.Addrs = addrs
		if err := errors.Join(w.d.Route(p.ns, addrs), w.d.SteerInbound(p.s), w.d.SteerOutbound(p.s)); err != nil {
			t.Fatal(err)
		}
		if found, err := w.d.CheckRoute(p.ns, addrs); err != nil || len(found.Missing) > 0 {
			t.Errorf("CheckRoute: %+v, %v", found, err)
		}
	}
	wantSource := func(to netip.AddrPort, prepare func(int) error, want netip.Addr) {
		t.Helper()
		got, err := ask(p.ns, to, prepare)
		if fields := strings.Fields(got); err != nil || len(fields) < 2 || fields[1] != want.String() {
			t.Errorf("to %v: %q, %v; want source %v", to, got, err, want)
		}
	}
	follow(addrs...)
	wantSource(far, nil, p.v4)
	wantSource(servers(1, true)[0], nil, p.v6)
	wantSource(far, onEth1, second)
	wantSource(servers(1, true)[0], onEth1, second6)

	// The first addresses leave: the source is one that is there.
	w.in(p.ns, func() error { return errors.Join(delAddr("eth0", p.v4), delAddr("eth0", p.v6)) })
	follow(second, second6)
	wantSource(far, nil, second)
	wantSource(servers(1, true)[0], nil, second6)
	if w.d.IsOwn(p.ns.Cookie(), p.v4) || !w.d.IsOwn(p.ns.Cookie(), second) {
		t.Error("what has left is still the pod's own")
	}
	// It is somebody else's now: not reached past ztunnel.
	wantServer(t, p.ns, netip.AddrPortFrom(p.v4, 80), "outbound")

	// The device goes, and its routes with it.
	w.in(p.ns, func() error {
		return errors.Join(addAddr("eth0", p.v4, 32), addAddr("eth0", p.v6, 128), linkDel("eth1"))
	})
	follow(p.v4, p.v6)
	wantSource(far, nil, p.v4)
	wantSource(servers(1, true)[0], nil, p.v6)
}

// A CNI plugin hands over a pod while its IPv6 address is tentative.
func TestTentativeSourceIsSetWhenItIsReady(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	fresh := netip.MustParseAddr("fd77:0:0:1::3")
	w.in(p.ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return errors.Join(delAddr("eth0", p.v6),
			writeSysctl("net/ipv6/conf/eth0/accept_dad", "1"), writeSysctl("net/ipv6/conf/eth0/dad_transmits", "2"),
			netlink.AddrAdd(eth0, &netlink.Addr{IPNet: netlink.NewIPNet(fresh.AsSlice())}))
	})
	p.v6 = fresh
	p.enroll(w.d)
	if found, err := w.d.CheckRoute(p.ns, p.s.Addrs); err != nil || len(found.Missing) > 0 {
		t.Errorf("CheckRoute with a tentative address: %+v, %v", found, err)
	}
	w.in(p.ns, func() error { return settle(t.Context(), []netip.Addr{fresh}) })
	if err := w.d.Route(p.ns, p.s.Addrs); err != nil {
		t.Fatal(err)
	}
	p.serveAll()
	got, err := ask(p.ns, servers(1, true)[0], nil)
	if err != nil || !strings.HasPrefix(got, fmt.Sprintf("outbound %v ", fresh)) {
		t.Errorf("%q, %v; want source %v", got, err, fresh)
	}
}

func TestAPodWithAddressesAmongTheStandInsIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		change func() error
		want   string // "": accepted
	}{
		"address":      {func() error { return addAddr("eth0", netip.MustParseAddr("240.9.9.9"), 32) }, "the address 240.9.9.9 of the pod is among the stand-ins"},
		"IPv6 address": {func() error { return addAddr("eth0", netip.MustParseAddr("100:0:0:1::9"), 128) }, "the address 100:0:0:1::9 of the pod is among"},
		"route":        {func() error { return addRoute1("eth0", netip.MustParseAddr("240.0.0.0"), 4, netip.Addr{}) }, "the route to 240.0.0.0/4 of the pod overlaps the stand-ins"},
		"half of all":  {func() error { return addRoute1("eth0", netip.MustParseAddr("128.0.0.0"), 1, netip.Addr{}) }, ""},
		"refused route": {func() error {
			return netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("240.0.0.0/4")), Type: unix.RTN_BLACKHOLE})
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			p := w.pod()
			w.in(p.ns, tc.change)
			err := w.d.Route(p.ns, []netip.Addr{p.v4, p.v6})
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("Route: %v; want %q", err, tc.want)
			}
		})
	}
}

func TestStandInPrefixesThatCannotBeAreRefused(t *testing.T) {
	for given, want := range map[string]string{
		"":                          "",
		"245.0.0.0/8":               "",
		"fd00:1::/64,10.128.0.0/12": "",
		"240.0.0.0/8,241.0.0.0/8":   "241.0.0.0/8 is the second of its family",
		"240.0.0.1/8":               "all other bits zero",
		"240.0.0.0/24":              "is too small: want 16 free bits or more",
		"127.0.0.0/8":               "overlaps 127.0.0.0/8",
		"240.0.0.0/4":               "overlaps 255.255.255.255/32",
		"::/16":                     "overlaps ::/96",
		"fe80::/64":                 "overlaps fe80::/10",
		"198.18.0.0/15":             "198.18.0.0/15 overlaps 198.19.0.0/24 of the excluded destinations",
	} {
		w := Options{ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("198.19.0.0/24")}}
		if given != "" {
			for s := range strings.SplitSeq(given, ",") {
				w.StandIns = append(w.StandIns, netip.MustParsePrefix(s))
			}
		}
		_, err := StandIns(w.StandIns)
		if err == nil {
			var prefixes []netip.Prefix
			prefixes, err = StandIns(w.StandIns)
			err = errors.Join(err, DisjointStandIns(prefixes, w.ExcludeCIDRs, "excluded destinations"))
		}
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v; want %q", given, err, want)
		}
	}
}

// Pods that were prepared for other stand-ins are refused until they are
// enrolled again: the new ones would lead out of them.
func TestOtherStandInsWaitUntilThePodIsPreparedForThem(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	s := p.sniff()
	p.s.Listeners.Close()
	w.d.Close()
	w.opts.StandIns = []netip.Prefix{netip.MustParsePrefix("245.0.0.0/8"), netip.MustParsePrefix("fd00:245::/64")}
	w.d = load(t, w.opts)
	for _, six := range []bool{false, true} {
		wantRefused(t, p.ns, servers(1, six)[0], nil)
	}
	for _, packet := range s.packets() {
		if _, dst, ok := ends(packet); ok && (w.opts.StandIns[0].Contains(dst) || w.opts.StandIns[1].Contains(dst)) {
			t.Errorf("a stand-in is on the wire: %v", dst)
		}
	}
	p.enroll(w.d)
	p.serveAll()
	for _, six := range []bool{false, true} {
		got, err := ask(p.ns, servers(1, six)[0], nil)
		fields := strings.Fields(got)
		if err != nil || len(fields) != 3 || fields[0] != "outbound" || !w.opts.StandIns[index(six)].Contains(netip.MustParseAddrPort(fields[2]).Addr()) {
			t.Errorf("%q, %v; want one of %v", got, err, w.opts.StandIns)
		}
	}
	w.in(p.ns, func() error {
		for _, r := range must(w.d.look(nil)).routes {
			if dst, ok := prefixOf(r.Dst); ok && slices.Contains(defaultStandIns, dst) {
				t.Errorf("a route of before is left: %v", r)
			}
		}
		return nil
	})
}

// A pod that a ztunnel without stand-ins enrolled, and still serves, goes on as
// before: its entry names no prefixes, its listener is on the pod's address.
func TestAPodOfAZtunnelWithoutStandInsGoesOn(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	s := p.sniff()
	for _, six := range []bool{false, true} {
		entry, ln := meshPod{}, p.listen(netip.AddrPortFrom(p.addr(six), 61234))
		if six {
			entry.Addr6, entry.Port6 = wireAddr(p.v6), wirePort(61234)
			p.s.Listeners.Outbound6 = ln
		} else {
			entry.Addr4, entry.Port4 = wireAddr(p.v4), wirePort(61234)
			p.s.Listeners.Outbound4 = ln
		}
		if err := w.d.mesh.Pods.Put(uint64(p.ns.Cookie()), entry); err != nil {
			t.Fatal(err)
		}
		if _, _, err := p.carried(plainClient(nil), six, servers(1, six)[0]); err != nil {
			t.Error(err)
		}
		ln.Close()
		wantRefused(t, p.ns, servers(1, six)[0], nil)
	}
	s.wantNothing()
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// An address left the pod while no ztunnel ran, or while a connection was open,
// and is another's: what the pod sends there stays in it.
func TestNothingLeavesForAnAddressThatWasThePodsOwn(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, six := range []bool{false, true} {
		was := netip.MustParseAddr("10.77.200.7")
		if six {
			was = netip.MustParseAddr("fd77:0:0:200::7")
		}
		w.in(p.ns, func() error { return addAddr("eth0", was, was.BitLen()) })
		p.s.Addrs = append(p.s.Addrs, was)
		if err := errors.Join(w.d.Route(p.ns, p.s.Addrs), w.d.UpdateAddrs(p.ns.Cookie(), p.s.Addrs)); err != nil {
			t.Fatal(err)
		}
		to := netip.AddrPortFrom(was, 8080)
		app := p.listen(to)
		var open int
		w.in(p.ns, func() (err error) { // and its app knows nobody else by that address
			open, err = plainClient(nil)(afOf(six), sockaddr(to))
			return err
		})
		defer unix.Close(open)
		serve(t, app, "app")
		wantServer(t, p.ns, to, "app")

		s := p.sniff()
		w.in(p.ns, func() error { return delAddr("eth0", was) })
		if !w.d.IsOwn(p.ns.Cookie(), was) {
			t.Fatal("somebody has noticed")
		}
		unix.Write(open, []byte(secret))
		if got, err := ask(p.ns, to, nil); err == nil && !strings.HasPrefix(got, "app ") {
			t.Errorf("%s: %q answers", family(six), got)
		}
		for _, packet := range s.packets() {
			if src, dst, ok := ends(packet); ok && dst == was {
				t.Errorf("%s: on the wire: %v to %v", family(six), src, dst)
			}
		}
		s.wantNothing()
	}
}

func TestASocketThatWasConnectedToThePodItselfMayGoOut(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	for _, six := range []bool{false, true} {
		to := servers(1, six)[0]
		p.in(p.ns, func() error {
			fd, err := unix.Socket(afOf(six), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			if err := unix.Connect(fd, sockaddr(netip.AddrPortFrom(p.addr(six), 9))); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: connect to a closed port of the pod: %v", family(six), err)
			}
			if err := unix.Connect(fd, sockaddr(to)); err != nil {
				t.Errorf("%s: %v", family(six), err)
			}
			if mark, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK); err != nil || mark != 0 {
				t.Errorf("%s: mark %#x, %v", family(six), mark, err)
			}
			return nil
		})
	}
}
