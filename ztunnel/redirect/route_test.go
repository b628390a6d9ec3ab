// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestRouteIsIdempotentAndUnrouteLeavesNoRule(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	before := rules(w, p)
	for range 2 {
		if err := w.d.Route(p.ns, []netip.Addr{p.v4, p.v6}); err != nil {
			t.Fatal(err)
		}
	}
	if got := rules(w, p); got != before+4 {
		t.Errorf("%d rules, want %d", got, before+4)
	}
	for range 2 {
		if err := w.d.Unroute(p.ns); err != nil {
			t.Fatal(err)
		}
	}
	if got := rules(w, p); got != before {
		t.Errorf("%d rules left, want %d", got, before)
	}
}

func rules(w *world, p *testPodNS) (n int) {
	w.t.Helper()
	w.in(p.ns, func() error {
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			found, err := netlink.RuleList(family)
			if err != nil {
				return err
			}
			n += len(found)
		}
		return nil
	})
	return n
}

func TestPodThatAcceptsItsOwnAddressesFromTheWireIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	w.in(p.ns, func() error { return writeSysctl("net/ipv4/conf/eth0/accept_local", "1") })
	if err := w.d.Route(p.ns, []netip.Addr{p.v4, p.v6}); err == nil || !strings.Contains(err.Error(), "net/ipv4/conf/eth0/accept_local is set") {
		t.Errorf("Route: %v", err)
	}
}

func TestListenersAvoidThePortsThatThePodHandsOut(t *testing.T) {
	for _, tc := range []struct {
		low, high uint16
		want      ports
	}{
		{32768, 60999, ports{61000, 65535}},
		{1024, 32767, ports{61000, 65535}},
		{10000, 62000, ports{62001, 65535}},
		{32768, 65535, ports{1024, 32767}},
		{1024, 65535, ports{61000, 65535}},
	} {
		if got := (ports{tc.low, tc.high}).outside(); got != tc.want {
			t.Errorf("outside(%d, %d) = %v, want %v", tc.low, tc.high, got, tc.want)
		}
	}
}

func sysctlOf(w *world, p *testPodNS, path string) (value string) {
	w.t.Helper()
	w.in(p.ns, func() error {
		text, err := os.ReadFile("/proc/sys/" + path)
		value = strings.TrimSpace(string(text))
		return err
	})
	return value
}

func TestUnrouteRestoresTheSysctlsThatRouteSet(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	const theirs, ours = "net/ipv4/tcp_fwmark_accept", "net/ipv4/fwmark_reflect"
	w.in(p.ns, func() error { return writeSysctl(theirs, "1") }) // an app's own wish
	addrs := []netip.Addr{p.v4, p.v6}
	if err := w.d.Route(p.ns, addrs); err != nil {
		t.Fatal(err)
	}
	// Another run restores as well what this one set, once and no more.
	w.d.Close()
	w.d = load(t, w.opts)
	if err := w.d.Route(p.ns, addrs); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.d.Unroute(p.ns); err != nil {
			t.Fatal(err)
		}
		if sysctlOf(w, p, theirs) != "1" || sysctlOf(w, p, ours) != "0" {
			t.Errorf("%s is %s, want 1; %s is %s, want 0", theirs, sysctlOf(w, p, theirs), ours, sysctlOf(w, p, ours))
		}
	}
	if n := count(t, w.d.mesh.Routed); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

func TestUnrouteLeavesNoWayOut(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	s := p.sniff()
	if err := w.d.Unroute(p.ns); err == nil {
		t.Error("a pod was unrouted that is steered")
	}
	for _, six := range []bool{false, true} {
		fd, conn, err := p.carried(plainClient(nil), six, servers(1, six)[0])
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie())); err != nil {
			t.Fatal(err)
		}
		// ztunnel's end is closed, the app's is not: it may send.
		conn.Close()
		if err := w.d.Unroute(p.ns); !errors.Is(err, ErrInUse) {
			t.Errorf("Unroute: %v, want ErrInUse", err)
		}
		for range 3 {
			unix.Write(fd, []byte(secret))
		}
		s.wantNothing()
		if err := connectUnspec(fd); err != nil {
			t.Fatal(err)
		}
		if err := w.d.Unroute(p.ns); err != nil {
			t.Errorf("Unroute: %v", err)
		}
		w.in(p.ns, func() error {
			v, err := w.d.look(nil)
			for _, r := range v.routes {
				if isOurRoute(r) {
					t.Errorf("left: %v", r)
				}
			}
			for _, r := range v.rules {
				if isOurRule(r) {
					t.Errorf("left: %v", r)
				}
			}
			return err
		})
		if err := errors.Join(w.d.Route(p.ns, p.s.Addrs), w.d.SteerInbound(p.s), w.d.SteerOutbound(p.s)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestVerifyRestoresRoutesRulesAndSysctls(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	inner := func(family int) error {
		rule := netlink.NewRule()
		rule.Family, rule.Priority, rule.Mark, rule.Table = family, innerPriority, innerMark, innerTable
		return netlink.RuleDel(rule)
	}
	for name, harm := range map[string]func() error{
		"tcp_fwmark_accept":        func() error { return writeSysctl("net/ipv4/tcp_fwmark_accept", "0") },
		"net/ipv4/fwmark_reflect":  func() error { return writeSysctl("net/ipv4/fwmark_reflect", "0") },
		"net/ipv6/fwmark_reflect":  func() error { return writeSysctl("net/ipv6/fwmark_reflect", "0") },
		"IPv4 rule of inner legs":  func() error { return inner(unix.AF_INET) },
		"IPv6 rule of inner legs":  func() error { return inner(unix.AF_INET6) },
		"IPv4 route of inner legs": func() error { return netlink.RouteDel(new(innerRoute(must(w.d.look(nil)), unix.AF_INET))) },
		"IPv6 route of inner legs": func() error { return netlink.RouteDel(new(innerRoute(must(w.d.look(nil)), unix.AF_INET6))) },
		"IPv6 barrier":             func() error { return removeBarrier(unix.AF_INET6) },
		"IPv4 guard rule":          func() error { return removeGuard(unix.AF_INET) },
		"route of stand-ins by lo": func() error { return removeStandInRoutes(unix.AF_INET6) },
	} {
		w.in(p.ns, harm)
		if wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || !strings.Contains(wrong, name) {
			t.Errorf("%s: VerifyRoute: %q, %v", name, wrong, err)
		}
		if wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || wrong != "" {
			t.Errorf("%s: VerifyRoute again: %q, %v", name, wrong, err)
		}
	}
	for _, six := range []bool{false, true} {
		to := netip.AddrPortFrom(p.addr(six), 8080)
		serve(t, p.listen(to), "app")
		source := client4
		if six {
			source = client6
		}
		leg, err := w.d.DialInner(p.ns)(t.Context(), netip.AddrPortFrom(source, 40000), to)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := greeting(leg); err != nil || !strings.HasPrefix(got, "app ") {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestSteerOutboundWantsTheRoutesFirst(t *testing.T) {
	w := newWorld(t)
	p := w.pod()
	addrs := []netip.Addr{p.v4, p.v6}
	lns, err := w.d.Listen(t.Context(), p.ns, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer lns.Close()
	err = w.d.SteerOutbound(Sandbox{NS: p.ns, Addrs: addrs, Listeners: lns})
	if err == nil || !strings.Contains(err.Error(), "not routed: no sysctl net/ipv4/tcp_fwmark_accept") {
		t.Errorf("SteerOutbound: %v", err)
	}
	if _, out := w.d.Steered(p.ns.Cookie()); out {
		t.Error("steered, and yet not routed")
	}
}

// A socket with a routing header sends its SYN to where that says: no listener
// takes what the socket published. It ages.
func TestWhatNobodyTookIsForgotten(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	segments := func(fd int) error { // by node6
		srh := append([]byte{0, 4, 4, 1, 1, 0, 0, 0}, make([]byte, 16)...) // the kernel fills in the destination
		srh = append(srh, node6.AsSlice()...)
		return unix.SetsockoptString(fd, unix.SOL_IPV6, unix.IPV6_RTHDR, string(srh))
	}
	sourceRoute := func(fd int) error { // loose, by node4
		return unix.SetsockoptString(fd, unix.SOL_IP, unix.IP_OPTIONS, string(append([]byte{131, 7, 4}, append(node4.AsSlice(), 1)...)))
	}
	for _, tc := range []struct {
		six     bool
		prepare func(int) error
	}{{true, segments}, {false, sourceRoute}} {
		p.in(p.ns, func() error {
			fd, err := rawClient(unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0, tc.prepare)(afOf(tc.six), sockaddr(servers(1, tc.six)[0]))
			if err == nil {
				unix.Close(fd)
			}
			return err
		})
		if n := count(t, w.d.mesh.OriginalDst); n != 1 {
			t.Fatalf("%s: %d destinations wait, want 1: the header is not what it was", family(tc.six), n)
		}
		if _, err := w.d.Verify(t.Context()); err != nil || count(t, w.d.mesh.OriginalDst) != 1 {
			t.Errorf("%s: a fresh one was forgotten, %v", family(tc.six), err)
		}
		age(t, w.d, staleAfter+time.Second)
		w.d.swept = time.Time{}
		if _, err := w.d.Verify(t.Context()); err != nil || count(t, w.d.mesh.OriginalDst) != 0 {
			t.Errorf("%s: a stale one is left, %v", family(tc.six), err)
		}
	}
	p.serveAll()
	wantServer(t, p.ns, servers(1, true)[0], "outbound")
}

// age makes what waits older.
func age(t *testing.T, d *Datapath, by time.Duration) {
	t.Helper()
	var key meshFlow
	var value meshPublished
	entries := d.mesh.OriginalDst.Iterate()
	for entries.Next(&key, &value) {
		value.Since -= uint64(by)
		if err := d.mesh.OriginalDst.Put(key, value); err != nil {
			t.Fatal(err)
		}
	}
	if err := entries.Err(); err != nil {
		t.Fatal(err)
	}
}
