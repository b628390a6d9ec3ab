// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// nested is a netns behind a pod, as docker makes one: the pod translates its
// own port 9090 to it.
type nested struct {
	*testPodNS
	ns      *netns.NS
	guarded []int
}

var (
	nested4, nested6 = netip.MustParseAddr("10.88.0.2"), netip.MustParseAddr("fd88::2")
	bridge4, bridge6 = netip.MustParseAddr("10.88.0.1"), netip.MustParseAddr("fd88::1")
)

func (p *testPodNS) nest() *nested {
	p.t.Helper()
	n := &nested{testPodNS: p, ns: open(p.t, env.NewNetns(p.t))}
	p.in(n.ns, func() error { return writeSysctl("net/ipv6/conf/default/accept_dad", "0") })
	p.in(p.ns, func() error {
		return errors.Join(n.ns.Fd(func(fd int) error { return addVeth("docker0", fd) }),
			writeSysctl("net/ipv4/ip_forward", "1"), writeSysctl("net/ipv6/conf/all/forwarding", "1"))
	})
	p.in(n.ns, func() error { return linkUp("eth0") })
	p.in(p.ns, func() error { return linkUp("docker0") })
	p.in(n.ns, func() error {
		return errors.Join(addAddr("eth0", nested4, 24), addAddr("eth0", nested6, 64),
			addRoute1("eth0", netip.IPv4Unspecified(), 0, bridge4), addRoute1("eth0", netip.IPv6Unspecified(), 0, bridge6))
	})
	p.in(p.ns, func() error {
		return errors.Join(addAddr("docker0", bridge4, 24), addAddr("docker0", bridge6, 64),
			settle(p.t.Context(), []netip.Addr{bridge6}))
	})
	p.in(p.ns, func() error {
		nft := exec.Command("nft", "-f", "-")
		nft.Stdin = strings.NewReader(`table inet docker {
			chain prerouting {
				type nat hook prerouting priority dstnat
				ip daddr ` + p.v4.String() + ` tcp dport 9090 dnat ip to 10.88.0.2
				ip6 daddr ` + p.v6.String() + ` tcp dport 9090 dnat ip6 to fd88::2
			}
		}`)
		if out, err := nft.CombinedOutput(); err != nil {
			return fmt.Errorf("nft: %v: %s", err, bytes.TrimSpace(out))
		}
		return nil
	})
	for _, at := range []string{"0.0.0.0:9090", "[::]:9090"} {
		ln, err := n.ns.Listen(p.t.Context(), netip.MustParseAddrPort(at), nil)
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { ln.Close() })
		serve(p.t, ln, "nested")
	}
	return n
}

// wantForwarded asserts what a stranger gets who connects to the nested port.
func (n *nested) wantForwarded(t *testing.T, what string) {
	t.Helper()
	for _, addr := range []netip.Addr{n.v4, n.v6} {
		wantServer(t, n.world.ns, netip.AddrPortFrom(addr, 9090), what)
	}
}

func (n *nested) wantDropped(t *testing.T) {
	t.Helper()
	for _, addr := range []netip.Addr{n.v4, n.v6} {
		if name, err := ask(n.world.ns, netip.AddrPortFrom(addr, 9090), nil); err == nil {
			t.Errorf("a stranger reaches %q behind %v", name, addr)
		}
	}
}

func (n *nested) guard(t *testing.T, g ForwardGuard) (wrong string) {
	t.Helper()
	now, wrong, err := n.d.GuardForwarding(n.testPodNS.ns, g, n.guarded)
	if err != nil {
		t.Fatal(err)
	}
	n.guarded = now
	return wrong
}

func TestAPodThatForwardsIsSeen(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	own := []netip.Addr{p.v4, p.v6}
	wantBehind := func(want ...string) {
		t.Helper()
		if behind, err := Forwards(p.ns, own); err != nil || !slices.Equal(behind, want) {
			t.Errorf("forwards to %q, %v; want %q", behind, err, want)
		}
	}
	w.in(p.ns, func() error { return writeSysctl("net/ipv4/ip_forward", "1") })
	wantBehind() // as a pod inherits it from its node
	n := p.nest()
	wantBehind("docker0")
	w.in(n.testPodNS.ns, func() error {
		return errors.Join(writeSysctl("net/ipv4/ip_forward", "0"), writeSysctl("net/ipv6/conf/all/forwarding", "0"))
	})
	wantBehind()
}

// Nobody but a guard stands between a stranger and what a pod forwards.
func TestAGuardRefusesWhatAPodWouldForward(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled(7070).nest()
	for _, addr := range []netip.Addr{n.v4, n.v6} {
		serve(t, n.listen(netip.AddrPortFrom(addr, 7070)), "app")
	}
	n.serveAll()
	n.wantForwarded(t, "nested")

	n.guard(t, ForwardGuard{Refuse: true})
	n.wantDropped(t)
	for _, addr := range []netip.Addr{n.v4, n.v6} { // what the pod serves itself is steered as before
		wantServer(t, w.ns, netip.AddrPortFrom(addr, 8080), "plaintext")
		wantServer(t, w.ns, netip.AddrPortFrom(addr, hbonePort), "hbone")
		if got, err := w.probeFrom("kubelet", w.path, netip.AddrPortFrom(addr, 7070)); err != nil || !strings.HasPrefix(got, "app ") {
			t.Errorf("a probe reaches %q, %v", got, err)
		}
	}

	n.guard(t, ForwardGuard{Refuse: true, Ports: map[uint16]bool{9090: false}})
	n.wantForwarded(t, "nested")
	n.guard(t, ForwardGuard{Ports: map[uint16]bool{9090: true}})
	n.wantDropped(t)
	n.guard(t, ForwardGuard{})
	n.wantForwarded(t, "nested")

	n.guard(t, ForwardGuard{Refuse: true})
	if err := n.d.UnguardForwarding(n.testPodNS.ns); err != nil {
		t.Fatal(err)
	}
	n.wantForwarded(t, "nested")
	if err := n.d.UnguardForwarding(n.testPodNS.ns); err != nil {
		t.Errorf("unguarded twice: %v", err)
	}
}

func TestAGuardOutlivesZtunnelAndRefusesWithoutIt(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	n.guard(t, ForwardGuard{Refuse: true})
	if err := n.s.Listeners.Close(); err != nil {
		t.Fatal(err)
	}
	n.wantDropped(t)
	w.d.Close()
	d := load(t, w.opts) // the next one
	n.d = d
	n.wantDropped(t)
	n.enroll(d)
	n.guarded = nil
	if wrong := n.guard(t, ForwardGuard{Refuse: true}); wrong != "" {
		t.Errorf("a guard that was taken over is called wrong: %s", wrong)
	}
	n.wantDropped(t)
}

func TestAGuardThatAnotherHandRemovedComesBack(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	n.guard(t, ForwardGuard{Refuse: true})
	w.in(n.testPodNS.ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.FilterDel(guardFilter(eth0.Attrs().Index))
	})
	n.wantForwarded(t, "nested")
	if wrong := n.guard(t, ForwardGuard{Refuse: true}); !strings.Contains(wrong, "eth0") {
		t.Errorf("said to be wrong: %q, want the guard on eth0", wrong)
	}
	n.wantDropped(t)
}

// What was open stays so, and the pod's own nested clients are not its guard's
// concern.
func TestAGuardLetsOpenConnectionsAndAnswersThrough(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	ln, err := w.ns.Listen(t.Context(), netip.AddrPortFrom(node4, 8080), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	serve(t, ln, "node")
	w.in(w.ns, func() error { return addRoute1("veth1", nested4, 32, n.v4) })
	conn, err := w.ns.Dial(t.Context(), netip.AddrPortFrom(n.v4, 9090), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n.guard(t, ForwardGuard{Refuse: true})
	if name, err := greeting(conn); err != nil || !strings.HasPrefix(name, "nested ") {
		t.Errorf("an open connection gives %q, %v", name, err)
	}
	wantServer(t, n.ns, netip.AddrPortFrom(node4, 8080), "node")
}

// To docker's rules whatever is local to the pod is the pod's, stand-ins included.
func TestAGuardRefusesStandInsFromTheWire(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	to := netip.MustParseAddrPort("240.0.0.9:9090")
	w.in(n.testPodNS.ns, func() error {
		out, err := exec.Command("nft", "add rule inet docker prerouting fib daddr type local tcp dport 9090 dnat ip to 10.88.0.2").CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %v: %s", err, out)
		}
		return nil
	})
	w.in(w.ns, func() error { return addRoute1("veth1", to.Addr(), 32, n.v4) })
	wantServer(t, w.ns, to, "nested") // the way that the guard has to shut
	n.guard(t, ForwardGuard{})
	if name, err := ask(w.ns, to, nil); err == nil {
		t.Errorf("a stranger reaches %q by a stand-in", name)
	}
}

// In no map, and translated like any other address.
func TestAGuardRefusesLinkLocalAddresses(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	var to netip.AddrPort
	w.in(n.testPodNS.ns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		addrs, err := netlink.AddrList(eth0, netlink.FAMILY_V6)
		for _, a := range addrs {
			if a.IP.IsLinkLocalUnicast() {
				addr, _ := netip.AddrFromSlice(a.IP)
				to = netip.AddrPortFrom(addr, 9090)
			}
		}
		if err != nil || !to.IsValid() {
			return fmt.Errorf("no link-local address on eth0: %w", err)
		}
		out, err := exec.Command("nft", "add rule inet docker prerouting ip6 daddr fe80::/10 tcp dport 9090 dnat ip6 to fd88::2").CombinedOutput()
		if err != nil {
			return fmt.Errorf("nft: %v: %s", err, out)
		}
		return nil
	})
	w.in(w.ns, func() error {
		wire, err := netlink.LinkByName("veth1")
		if err == nil {
			to = netip.AddrPortFrom(to.Addr().WithZone(fmt.Sprint(wire.Attrs().Index)), to.Port())
		}
		return err
	})
	byGlobal := bindTo(node6, 0) // the kernel forwards nothing that comes from a link-local address
	wantServer(t, w.ns, to, "nested", byGlobal)
	n.guard(t, ForwardGuard{Refuse: true})
	if name, err := ask(w.ns, to, byGlobal); err == nil {
		t.Errorf("a stranger reaches %q by a link-local address", name)
	}
	serve(t, n.listen(netip.AddrPortFrom(n.v6, 7070)), "app") // and neighbours are found as before
	n.serveAll()
	wantServer(t, w.ns, netip.AddrPortFrom(n.v6, 8080), "plaintext")
}
