// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// second is the ADD of another network of the same sandbox, as Multus does it.
func (w *world) second(req enroll.Request, addr string) enroll.Request {
	w.t.Helper()
	ip := netip.MustParseAddr(addr)
	w.addAddr(req.Netns, ip)
	req.Network, req.IfName, req.IPs = "storage", "net1", enroll.Addrs{ip}
	return req
}

// open opens a connection of the pod that is carried to a server outside the
// mesh, and stays open. It returns what says whether it still lives, and what
// closes it: until then its socket holds the netns.
func (w *world) open(uid string) (lives func() bool, done func()) {
	w.t.Helper()
	at := netip.MustParseAddrPort("192.0.2.9:80")
	pod, outside := w.enter(w.sandboxes[uid].Netns), w.enter(env.NewNetns(w.t))
	w.wire(pod, outside, w.workloads[0].Addrs[0], at.Addr())
	ln, err := outside.Listen(w.t.Context(), at, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	conn, err := pod.Dial(w.t.Context(), at, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	lives = func() bool { return w.carries(uid) > 0 }
	w.eventually("the connection is carried", lives)
	pod.Close()
	w.t.Cleanup(func() { conn.Close() })
	return lives, func() {
		conn.SetLinger(0) // the server does not end it
		conn.Close()
	}
}

func (w *world) enter(path string) *netns.NS {
	w.t.Helper()
	ns, err := netns.Open(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ns.Close() })
	return ns
}

// wire connects two netns, so that each reaches that address of the other.
func (w *world) wire(pod, outside *netns.NS, podAddr, outsideAddr netip.Addr) {
	w.t.Helper()
	up := func(name string, to netip.Addr) error {
		device, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		return errors.Join(netlink.LinkSetUp(device), netlink.RouteReplace(&netlink.Route{
			LinkIndex: device.Attrs().Index, Dst: netlink.NewIPNet(to.AsSlice()), Scope: netlink.SCOPE_LINK}))
	}
	w.wires++
	name := fmt.Sprintf("ext%d", w.wires)
	err := outside.Fd(func(fd int) error {
		return pod.Do(func() error {
			return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "pod", PeerNamespace: netlink.NsFd(fd)})
		})
	})
	if err == nil {
		err = outside.Do(func() error {
			device, err := netlink.LinkByName("pod")
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrAdd(device, &netlink.Addr{IPNet: netlink.NewIPNet(outsideAddr.AsSlice())}), up("pod", podAddr))
		})
	}
	if err == nil {
		err = pod.Do(func() error { return up(name, outsideAddr) })
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// carries is how many connections of a pod are carried.
func (w *world) carries(uid string) int {
	c := w.pods.Dump()[uid].Connections
	return len(c.Inbound) + len(c.Outbound)
}

func TestASecondNetworkOfASandboxCutsNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	first := w.pod("web", "10.1.0.1", true)
	w.add(first, enroll.Enrolled)
	lives, done := w.open("web")
	pod, _ := w.pods.byID(first.ContainerID)
	life, member := pod.life, pod.member

	second := w.second(first, "10.2.0.1")
	w.add(second, enroll.Enrolled)
	if got := member.addresses.list(); !slices.Contains(got, second.IPs[0]) {
		t.Errorf("ADD is answered while the pod is steered at %v only", got)
	}
	w.add(second, enroll.Enrolled) // runtimes repeat it
	w.add(first, enroll.Enrolled)
	if now, _ := w.pods.byID(first.ContainerID); now != pod || pod.member != member || life.Err() != nil || len(w.pods.all()) != 1 {
		t.Error("the sandbox has another record or another membership")
	}
	if !lives() {
		t.Error("the connection was cut")
	}
	if got := pod.sandbox().ips(); !slices.Equal(got, []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("10.2.0.1")}) {
		t.Errorf("the sandbox has the addresses %v", got)
	}
	for _, req := range []enroll.Request{first, second} {
		if err := w.pods.Check(t.Context(), req); err != nil {
			t.Errorf("CHECK of network %s: %v", req.Network, err)
		}
	}
	third := second
	third.IfName = "net2"
	if err := w.pods.Check(t.Context(), third); err == nil || !strings.Contains(err.Error(), "on network storage by net2") {
		t.Errorf("CHECK of an interface that was never added: %v", err)
	}

	w.kill()
	w.start()
	w.eventually("the pod is enrolled again", func() bool { return w.connects("web") == carried })
	done()
	lives, done = w.open("web")

	w.del(third)  // that it never was on
	w.del(second) // and again, as runtimes do
	w.del(second)
	w.want("web", carried)
	if !lives() {
		t.Error("the DEL of one network cut a connection")
	}
	if err := w.pods.Check(t.Context(), second); err == nil {
		t.Error("CHECK of a network that the sandbox was taken off passes")
	}
	w.del(first)
	w.want("web", refused)
	done()
	w.destroy("web")
	w.leavesNoTrace("web")
}

// Whichever network is deleted last ends the sandbox.
func TestASandboxEndsWithItsLastNetwork(t *testing.T) {
	w := newWorld(t)
	w.start()
	first := w.pod("web", "10.1.0.1", true)
	second := w.second(first, "10.2.0.1")
	w.add(first, enroll.Enrolled)
	w.add(second, enroll.Enrolled)
	w.del(first)
	w.want("web", carried)
	w.del(second)
	w.want("web", refused)

	// The runtime may take the same sandbox up again.
	w.add(first, enroll.Enrolled)
	w.want("web", carried)
	w.destroy("web")
	w.leavesNoTrace("web")
}

func TestGarbageIsCollectedByNetwork(t *testing.T) {
	w := newWorld(t)
	w.start()
	first := w.pod("web", "10.1.0.1", true)
	second := w.second(first, "10.2.0.1")
	w.add(first, enroll.Enrolled)
	w.add(second, enroll.Enrolled)
	for _, tc := range []struct {
		network string
		valid   []enroll.Attachment
		want    string
		left    int
	}{
		{"net", []enroll.Attachment{{ContainerID: first.ContainerID, IfName: "eth0"}}, carried, 2},
		{"other", nil, carried, 2},
		{"storage", []enroll.Attachment{{ContainerID: first.ContainerID, IfName: "eth0"}}, carried, 1}, // of another interface
		{"net", nil, refused, 0},
	} {
		if err := w.pods.GC(t.Context(), tc.network, tc.valid); err != nil {
			t.Error(err)
		}
		pod, _ := w.pods.byID(first.ContainerID)
		if left := len(pod.sandbox().Networks); left != tc.left {
			t.Errorf("GC of network %s left %d networks, want %d", tc.network, left, tc.left)
		}
		w.want("web", tc.want)
	}
	w.destroy("web")
	w.leavesNoTrace("web")
}

func TestAnADDWithOtherAddressesChangesTheRecordAndCutsNothing(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	lives, _ := w.open("web")
	other := netip.MustParseAddr("10.1.0.7")
	w.addAddr(req.Netns, other)
	req.IPs = enroll.Addrs{other}
	w.add(req, enroll.Enrolled)
	pod, _ := w.pods.byID(req.ContainerID)
	if got := pod.sandbox().ips(); !slices.Equal(got, []netip.Addr{other}) {
		t.Errorf("the sandbox has the addresses %v", got)
	}
	if !lives() {
		t.Error("the connection was cut")
	}
	w.want("web", carried)
}

func TestASandboxIsOnABoundedNumberOfNetworks(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	req.IPs = nil // a second network may do without addresses
	for i := 1; i < maxNetworks; i++ {
		req.IfName = "net" + string(rune('A'+i))
		w.add(req, enroll.Enrolled)
	}
	req.IfName = "onemore"
	if reply := w.add(req, enroll.Block); !strings.Contains(reply.Reason, "is on 32 networks, which is the limit") {
		t.Error(reply.Reason)
	}
	w.want("web", carried)
}

// A netns that a process of somebody else holds is not that of the pod, whatever
// container is named.
func TestANetworkOfAnotherPodIsNotASecondOne(t *testing.T) {
	w := newWorld(t)
	w.start()
	victim := w.pod("victim", "10.1.0.1", true)
	w.add(victim, enroll.Enrolled)
	thief := w.pod("thief", "10.1.0.2", true)
	thief.Netns, thief.ContainerID, thief.IPs = victim.Netns, victim.ContainerID, victim.IPs
	if reply := w.add(thief, enroll.Block); !strings.Contains(reply.Reason, "is enrolled as pod shop/victim already") {
		t.Error(reply.Reason)
	}
	stranger := victim // another container without an address is no second network
	stranger.ContainerID, stranger.IPs = "stranger", nil
	if reply := w.add(stranger, enroll.Block); !strings.Contains(reply.Reason, "no address") {
		t.Error(reply.Reason)
	}
	w.want("victim", carried)
}

func TestSandboxesOfANodeAreBounded(t *testing.T) {
	w := newWorld(t)
	w.load()
	w.pods.base = t.Context()
	close(w.pods.loaded)
	for i := range maxSandboxes {
		full := &pod{}
		full.known.Store(&sandbox{ContainerID: fmt.Sprint(i), Cookie: netns.Cookie(1<<40 + i)})
		w.pods.byNetns[full.sandbox().Cookie] = full
	}
	if reply := w.add(w.pod("web", "10.1.0.1", true), enroll.Block); !strings.Contains(reply.Reason, "8192 sandboxes of this node are recorded, which is the limit") {
		t.Error(reply.Reason)
	}
	w.add(w.pod("plain", "10.1.0.2", false), enroll.Ignore) // it may start, and is not remembered
	if n := len(w.pods.all()); n != maxSandboxes {
		t.Errorf("%d sandboxes are recorded", n)
	}
}
