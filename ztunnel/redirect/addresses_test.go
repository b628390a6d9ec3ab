// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// secondAddr gives a pod another address, to which its node knows the way.
func (p *testPodNS) secondAddr(addr netip.Addr) {
	p.t.Helper()
	p.in(p.ns, func() error {
		return errors.Join(addAddr("eth0", addr, addr.BitLen()), settle(p.t.Context(), []netip.Addr{addr}))
	})
	p.in(p.world.ns, func() error { return addRoute1("veth1", addr, addr.BitLen(), netip.Addr{}) })
}

func TestSteeringFollowsTheAddressesOfAPod(t *testing.T) {
	for _, second := range []netip.Addr{netip.MustParseAddr("10.78.0.2"), netip.MustParseAddr("fd78::2")} {
		w := newWorld(t)
		p := w.enrolled()
		p.serveAll()
		p.secondAddr(second)
		inbound, tunnels := netip.AddrPortFrom(second, 8080), netip.AddrPortFrom(second, hbonePort)
		wantRefused(t, w.ns, inbound, nil)
		for range 2 { // it may come, leave and come again
			if err := w.d.UpdateAddrs(p.ns.Cookie(), []netip.Addr{p.v4, p.v6, second}); err != nil {
				t.Fatal(err)
			}
			wantServer(t, w.ns, inbound, "plaintext")
			wantServer(t, w.ns, tunnels, "hbone")
			wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound", nil)
			if far := netip.AddrPortFrom(far4, 80); second.Is6() {
				wantServer(t, p.ns, netip.AddrPortFrom(far6, 80), "outbound", bindTo(second, 0))
			} else {
				wantServer(t, p.ns, far, "outbound", bindTo(second, 0))
			}
			if err := w.d.UpdateAddrs(p.ns.Cookie(), []netip.Addr{p.v4, p.v6}); err != nil {
				t.Fatal(err)
			}
			wantRefused(t, w.ns, inbound, nil)
		}
		// It is not the pod's own any more: it may be another pod's.
		wantServer(t, p.ns, inbound, "outbound")
	}
}

func TestAFamilyWithoutAnAddressIsRefusedAtOnce(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	to := netip.AddrPortFrom(far6, 80)
	wantServer(t, p.ns, to, "outbound")
	if err := w.d.UpdateAddrs(p.ns.Cookie(), []netip.Addr{p.v4}); err != nil {
		t.Fatal(err)
	}
	if _, err := ask(p.ns, to, nil); !errors.Is(err, unix.EPERM) {
		t.Errorf("connect to %v: %v, want EPERM", to, err)
	}
	wantRefused(t, w.ns, netip.AddrPortFrom(p.v6, 8080), nil)
	wantServer(t, p.ns, netip.AddrPortFrom(far4, 80), "outbound")
	if err := w.d.UpdateAddrs(p.ns.Cookie(), []netip.Addr{p.v4, p.v6}); err != nil {
		t.Fatal(err)
	}
	wantServer(t, p.ns, to, "outbound")
	wantServer(t, w.ns, netip.AddrPortFrom(p.v6, 8080), "plaintext")
}

// An entry too many lets connections pass unsteered: to that address, or from it.
func TestVerifyRemovesAddressesThatAreNotThePods(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	p.serveAll()
	cookie := uint64(p.ns.Cookie())
	for name, add := range map[string]func() error{
		"own_ips": func() error {
			return w.d.mesh.OwnIps.Put(meshPodAddr{Netns: cookie, Addr: wireAddr(node4)}, uint8(1))
		},
		"pod_ips": func() error { return w.d.mesh.PodIps.Put(wireAddr(node4), cookie) },
	} {
		if err := add(); err != nil {
			t.Fatal(err)
		}
		repaired, err := w.d.Verify(t.Context())
		if err != nil || len(repaired) != 1 || !strings.HasPrefix(repaired[0], "address 10.77.0.1 of netns") {
			t.Errorf("%s: Verify: %q, %v", name, repaired, err)
		}
		wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
		wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext", bindTo(node4, 0))
		if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) > 0 {
			t.Errorf("%s: Verify again: %q, %v", name, repaired, err)
		}
	}
}

func TestAddressesOfAPodThatIsNotSteeredAreRefused(t *testing.T) {
	w := newWorld(t)
	if err := w.d.UpdateAddrs(4711, nil); err == nil || !strings.Contains(err.Error(), "netns 4711: not steered") {
		t.Errorf("UpdateAddrs: %v", err)
	}
}
