// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addRoutes adds routes to a table, from 16.0.0.0 on.
func addRoutes(n, table int, protocol netlink.RouteProtocol) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := range n {
		to := netip.PrefixFrom(netip.AddrFrom4([4]byte{16 + byte(i>>16), byte(i >> 8), byte(i)}), 32)
		if err := h.RouteAdd(&netlink.Route{LinkIndex: 1, Dst: ipNet(to), Table: table, Protocol: protocol, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("route to %v: %w", to, err)
		}
	}
	return nil
}

// addDevices adds devices that are up, by pairs.
func addDevices(from, to int) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	for i := from; i < to; i += 2 {
		pair := &netlink.Veth{LinkAttrs: netlink.NewLinkAttrs(), PeerName: fmt.Sprint("more", i+1)}
		pair.Name, pair.Flags = fmt.Sprint("more", i), net.FlagUp
		if err := h.LinkAdd(pair); err != nil {
			return err
		}
		peer, err := h.LinkByName(pair.PeerName)
		if err == nil {
			err = h.LinkSetUp(peer)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func removeDevices(from, to int) error {
	for i := from; i < to; i += 2 {
		if err := linkDel(fmt.Sprint("more", i)); err != nil {
			return err
		}
	}
	return nil
}

// The kernel leaves out what is none of ours: if it did not, look would give up.
func TestAPodsRoutesAreNotReadHoweverManyThereAre(t *testing.T) {
	const many = 200_000
	w := newWorld(t)
	p := w.enrolled()
	w.in(p.ns, func() error {
		return errors.Join(addRoutes(many, unix.RT_TABLE_MAIN, unix.RTPROT_BGP), addRoutes(2*maxRoutes, unix.RT_TABLE_LOCAL, unix.RTPROT_STATIC))
	})
	if found, err := w.d.CheckRoute(p.ns, p.s.Addrs); err != nil || len(found.Missing) != 0 {
		t.Errorf("CheckRoute: %+v, %v", found, err)
	}
	w.in(p.ns, func() error { return removeStandInRoutes(unix.AF_INET) })
	if wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || !strings.Contains(wrong, "IPv4 route of stand-ins by lo") {
		t.Errorf("VerifyRoute: %q, %v", wrong, err)
	}
	p.serveAll()
	wantServer(t, p.ns, servers(1, false)[0], "outbound")
}

// A pod that gives its routes our protocol, by the thousand, is looked at no longer.
func TestAPodWithTooManyRoutesOfOurProtocolIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	w.in(p.ns, func() error {
		for i := range maxRoutes {
			to := netip.PrefixFrom(netip.AddrFrom4([4]byte{16, 0, byte(i >> 8), byte(i)}), 32)
			if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(to), Type: unix.RTN_UNREACHABLE, Protocol: ourProtocol}); err != nil {
				return err
			}
		}
		return nil
	})
	for name, err := range map[string]error{"CheckRoute": second(w.d.CheckRoute(p.ns, p.s.Addrs)), "Route": w.d.Route(p.ns, p.s.Addrs)} {
		if err == nil || !strings.Contains(err.Error(), "more than 1024 routes of protocol 208") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAPodWithTooManyRulesIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	w.in(p.ns, func() error {
		for i := range maxRules {
			rule := netlink.NewRule()
			rule.Family, rule.Priority, rule.Mark, rule.Table = unix.AF_INET, 1000, uint32(i+1), 7
			if err := netlink.RuleAdd(rule); err != nil {
				return err
			}
		}
		return nil
	})
	if _, err := w.d.CheckRoute(p.ns, p.s.Addrs); err == nil || !strings.Contains(err.Error(), "more than 4096 rules") {
		t.Errorf("CheckRoute: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// A pod with more devices than that is refused by each that a socket chooses, and
// nothing leaves by one.
func TestOnlySoManyDevicesOfAPodAreSteered(t *testing.T) {
	const many = 1000
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	s := p.sniff()
	wantBound := func(device string, want error) {
		t.Helper()
		for _, six := range []bool{false, true} {
			wantServer(t, p.ns, servers(1, six)[0], "outbound")
		}
		p.wantBound(t, device, want)
	}
	w.in(p.ns, func() error { return addDevices(0, many) })
	if err := errors.Join(w.d.Route(p.ns, p.s.Addrs), w.d.SteerOutbound(p.s)); err != nil {
		t.Fatal(err)
	}
	wantBound("more999", unix.EPERM) // from the start, before anybody comes to verify
	wrong, excess, err := w.d.VerifyRoute(p.ns, p.s.Addrs)
	if want := many + 2 - maxDevices; err != nil || wrong != "" || excess != want { // lo and eth0
		t.Errorf("VerifyRoute: %q, excess %d, %v; want an excess of %d", wrong, excess, err, want)
	}
	for _, device := range []string{"eth0", "more0", "more999"} {
		wantBound(device, unix.EPERM)
	}
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != 0 {
		t.Errorf("Verify: %q, %v", repaired, err)
	}

	// Those that come later take no route from those that are there.
	before := w.standInRoutes(p)
	w.in(p.ns, func() error { return addDevices(many, many+10) })
	if wrong, now, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || wrong != "" || now != excess+10 {
		t.Errorf("VerifyRoute: %q, excess %d, %v", wrong, now, err)
	}
	if now := w.standInRoutes(p); now != before || now != 2*maxDevices {
		t.Errorf("%d routes of stand-ins, before %d, want %d", now, before, 2*maxDevices)
	}

	w.in(p.ns, func() error { return removeDevices(0, many+10) })
	if _, excess, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || excess != 0 {
		t.Errorf("VerifyRoute: excess %d, %v", excess, err)
	}
	wantBound("eth0", nil)
	s.wantNothing()
}

// wantBound asserts what a socket of the pod gets that is bound to a device.
func (p *testPodNS) wantBound(t *testing.T, device string, want error) {
	t.Helper()
	for _, six := range []bool{false, true} {
		_, err := ask(p.ns, servers(1, six)[0], func(fd int) error { return unix.BindToDevice(fd, device) })
		if !errors.Is(err, want) {
			t.Errorf("%s by %s: %v, want %v", family(six), device, err, want)
		}
	}
}

// When a pod has few devices again, those that are left get their routes first. Without
// one, a socket that is bound to a device asks its wire for the stand-in.
func TestAPodIsCrowdedUntilItsDevicesAreRouted(t *testing.T) {
	const many = 100
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	s := p.sniff()
	w.in(p.ns, func() error { return addDevices(0, many) })
	if _, excess, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || excess == 0 {
		t.Fatalf("VerifyRoute: excess %d, %v", excess, err)
	}
	w.in(p.ns, func() error { return removeDevices(0, many-2) })
	obstacle := netip.MustParseAddr("240.9.9.9")
	w.in(p.ns, func() error { // Route refuses what overlaps, unless it was there before
		return errors.Join(addAddr("eth0", obstacle, 32), removeStandInRoutes(unix.AF_INET), removeStandInRoutes(unix.AF_INET6),
			removeBarrier(unix.AF_INET), removeBarrier(unix.AF_INET6))
	})
	if _, excess, err := w.d.VerifyRoute(p.ns, p.s.Addrs); excess != 0 || err == nil || !strings.Contains(err.Error(), "among the stand-ins") {
		t.Fatalf("VerifyRoute with an obstacle: excess %d, %v", excess, err)
	}
	p.wantBound(t, "more99", unix.EPERM)

	w.in(p.ns, func() error { return delAddr("eth0", obstacle) })
	if _, excess, err := w.d.VerifyRoute(p.ns, p.s.Addrs); err != nil || excess != 0 {
		t.Errorf("VerifyRoute: excess %d, %v", excess, err)
	}
	p.wantBound(t, "eth0", nil)
	s.wantNothing()
}

func (w *world) standInRoutes(p *testPodNS) (n int) {
	w.t.Helper()
	w.in(p.ns, func() error {
		v, err := w.d.look(p.s.Addrs)
		for _, r := range v.routes {
			if r.Table == unix.RT_TABLE_LOCAL && w.d.isStandInRoute(r) {
				n++
			}
		}
		return err
	})
	return n
}

// Protocol 208 is registered to nobody: others may use it in tables of their own.
func TestRoutesOfOurProtocolInTablesOfOthersStay(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	theirs := []netlink.Route{
		{LinkIndex: 1, Dst: ipNet(netip.MustParsePrefix("16.0.0.0/24")), Table: 77, Protocol: ourProtocol},
		{LinkIndex: 1, Dst: ipNet(netip.MustParsePrefix("16.0.1.0/24")), Table: unix.RT_TABLE_MAIN, Protocol: ourProtocol},
	}
	w.in(p.ns, func() error { return errors.Join(netlink.RouteAdd(&theirs[0]), netlink.RouteAdd(&theirs[1])) })
	wrong, _, err := w.d.VerifyRoute(p.ns, p.s.Addrs)
	if err != nil || wrong != "" {
		t.Errorf("VerifyRoute: %q, %v", wrong, err)
	}
	if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie()), w.d.Unroute(p.ns)); err != nil {
		t.Fatal(err)
	}
	w.in(p.ns, func() error {
		for _, r := range theirs {
			found, err := netlink.RouteListFiltered(unix.AF_INET, &r, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_DST)
			if err != nil || len(found) != 1 {
				t.Errorf("%v: %v, %v", r, found, err)
			}
		}
		return nil
	})
}

// What takes long in one pod must not hold up another.
func TestAPodWhoseRoutingChangesHoldsUpNoOther(t *testing.T) {
	w := newWorld(t)
	slow, p := w.enrolled(), w.enrolled()
	defer w.d.routing.Lock(slow.ns.Cookie())()
	if err := errors.Join(w.d.Route(p.ns, p.s.Addrs), w.d.SteerOutbound(p.s)); err != nil {
		t.Error(err)
	}
}
