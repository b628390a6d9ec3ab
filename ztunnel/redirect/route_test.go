// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"net/netip"
	"strings"
	"testing"

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
