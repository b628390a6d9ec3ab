// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
)

func (w *world) delAddr(path string, ip netip.Addr) {
	w.t.Helper()
	w.inNetns(path, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.AddrDel(lo, &netlink.Addr{IPNet: netlink.NewIPNet(ip.AsSlice())})
	})
}

func (w *world) inNetns(path string, f func() error) {
	w.t.Helper()
	if err := env.InNetns(path, f); err != nil {
		w.t.Fatal(err)
	}
}

// steered are the addresses that an enrolled pod has.
func (w *world) steered(uid string) []netip.Addr {
	w.t.Helper()
	pod, ok := w.pods.byID("c-" + uid)
	if !ok {
		w.t.Fatalf("no pod %s", uid)
	}
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if pod.member == nil {
		return nil
	}
	return pod.member.addresses.inForce()
}

func addrs(list ...string) (parsed []netip.Addr) {
	for _, a := range list {
		parsed = append(parsed, netip.MustParseAddr(a))
	}
	return parsed
}

// What a pod sends to its own addresses is not steered. One that has left may be
// another pod's by now.
func TestAnAddressIsThePodsOwnAsLongAsItHasIt(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	later := netip.MustParseAddr("10.8.0.1")
	to := netip.AddrPortFrom(later, 80)
	if got := w.connectsTo("web", to); got != carried {
		t.Errorf("before the pod has %v, connections to it are %s", later, got)
	}
	w.addAddr(w.sandboxes["web"].Netns, later)
	w.eventually("the address is the pod's own", func() bool { return w.connectsTo("web", to) == refused }) // by its app, which does not listen
	w.delAddr(w.sandboxes["web"].Netns, later)
	w.eventually("the address is another's", func() bool { return w.connectsTo("web", to) == carried })
	w.want("web", carried)
}

// The next ztunnel finds the entries of the last.
func TestAnAddressThatLeftWhileNoZtunnelWasHereIsNotThePodsOwn(t *testing.T) {
	w := newWorld(t)
	w.start()
	later := netip.MustParseAddr("10.8.0.1")
	req := w.pod("web", "10.1.0.1", true)
	w.addAddr(req.Netns, later)
	w.add(req, enroll.Enrolled)
	w.kill()
	w.delAddr(req.Netns, later)
	w.start()
	w.eventually("the pod is enrolled", func() bool { return w.connects("web") == carried })
	if got := w.connectsTo("web", netip.AddrPortFrom(later, 80)); got != carried {
		t.Errorf("connections to what was the pod's address are %s", got)
	}
}

// The registry may not be read for long: nothing may be let out meanwhile.
func TestAnAddressThatLeftIsNotThePodsOwnBeforeTheRegistryIsRead(t *testing.T) {
	w := newWorld(t)
	w.start()
	later := netip.MustParseAddr("10.8.0.1")
	req := w.pod("web", "10.1.0.1", true)
	w.addAddr(req.Netns, later)
	w.add(req, enroll.Enrolled)
	w.kill()
	w.delAddr(req.Netns, later)
	w.load()
	w.pods.pruneOwn()
	if w.datapath.IsOwn(w.sandboxes["web"].Cookie, later) {
		t.Error("what was the pod's address is its own still")
	}
}

// The registry may learn later than the netns whose an address is.
func TestAnAddressGoesToThePodThatTheRegistryNames(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.addAddr(req.Netns, netip.MustParseAddr("10.1.0.9"))
	w.add(req, enroll.Enrolled)
	if got, want := w.steered("web"), addrs("10.1.0.1", "10.1.0.9"); !slices.Equal(got, want) {
		t.Errorf("steered at %v, want %v", got, want)
	}
	remote := w.workloads[0]
	remote.UID, remote.Name, remote.Node, remote.Addrs = "remote", "remote", "there", addrs("10.1.0.9")
	w.workloads = append(w.workloads, remote)
	w.replace()
	w.eventually("the address is given up", func() bool { return slices.Equal(w.steered("web"), addrs("10.1.0.1")) })
	if why := w.pods.Dump()["web"].Addresses.Refused[netip.MustParseAddr("10.1.0.9")]; why != "is the address of pod shop/remote" {
		t.Errorf("refused because it %q", why)
	}
}

// addMany makes a device with n addresses, from the first on.
func addMany(dev string, first, n int) error {
	h, err := netlink.NewHandle()
	if err != nil {
		return err
	}
	defer h.Close()
	if err := h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: dev}, PeerName: dev + "-peer"}); err != nil {
		return err
	}
	l, err := h.LinkByName(dev)
	if err != nil {
		return err
	}
	for i := first; i < first+n; i++ {
		ip := netip.AddrFrom4([4]byte{10, 8, byte(i >> 8), byte(i)})
		if err := h.AddrAdd(l, &netlink.Addr{IPNet: netlink.NewIPNet(ip.AsSlice())}); err != nil {
			return err
		}
	}
	return nil
}

// One pod's excess is its own.
func TestAPodWithThousandsOfAddressesBlocksNoOther(t *testing.T) {
	const many = 17000 // more than the maps hold
	w := newWorld(t)
	w.start()
	req := w.pod("greedy", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.inNetns(req.Netns, func() error {
		for dev := range 10 { // adding to one takes the longer, the more it has
			if err := addMany(fmt.Sprint("veth", dev), dev*many/10, many/10); err != nil {
				return err
			}
		}
		return nil
	})
	var found Addresses
	w.eventually("all addresses were seen", func() bool {
		found = *w.pods.Dump()["greedy"].Addresses
		return len(found.Steered)+found.Excess == many+1
	})
	if len(found.Steered) != maxAddrs || found.Steered[0] != netip.MustParseAddr("10.1.0.1") {
		t.Errorf("steered at %d addresses, first %v; want %d, first its own", len(found.Steered), found.Steered[0], maxAddrs)
	}
	answer := httptest.NewRecorder()
	w.pods.Metrics.Handler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	if want := fmt.Sprintf(`culvert_pod_addresses_refused_total{reason="limit"} %d`, many+1-maxAddrs); !strings.Contains(answer.Body.String(), want) {
		t.Errorf("no %q in the metrics", want)
	}
	// What is not steered is not the pod's own: it is never reached in plaintext.
	if got := w.connectsTo("greedy", netip.MustParseAddrPort("10.8.66.1:80")); got != carried {
		t.Errorf("connections to an address beyond the limit are %s", got)
	}
	w.add(w.pod("other", "10.1.0.2", true), enroll.Enrolled)
	w.want("other", carried)
	w.want("greedy", carried)
}

func TestAPodThatIsRenumberedStaysInTheMesh(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	next := netip.MustParseAddr("10.1.0.77")
	w.addAddr(req.Netns, next)
	w.delAddr(req.Netns, netip.MustParseAddr("10.1.0.1"))
	w.eventually("the pod has its next address", func() bool { return slices.Equal(w.steered("web"), []netip.Addr{next}) })
	w.eventually("the pod talks", func() bool { return w.connects("web") == carried })
	if got := w.connectsTo("web", netip.MustParseAddrPort("10.1.0.1:80")); got != carried {
		t.Errorf("connections to what was the pod's address are %s", got)
	}
	w.delAddr(req.Netns, next)
	w.eventually("a pod without an address is refused", func() bool { return forbidden(w.connects("web")) })
}

// The plugin's word is old, and the netns is still the pod's.
func TestAPodThatWasRenumberedIsTakenOver(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	next, others := netip.MustParseAddr("10.1.0.77"), netip.MustParseAddr("10.1.0.2")
	w.kill()
	w.delAddr(req.Netns, netip.MustParseAddr("10.1.0.1"))
	w.start()
	w.eventually("ztunnel has tried", func() bool { return strings.Contains(w.pods.Dump()["web"].Reason, "holds none of the pod's addresses") })

	// What another pod has is no reason to take it over.
	remote := w.workloads[0]
	remote.UID, remote.Name, remote.Node, remote.Addrs = "remote", "remote", "there", []netip.Addr{others}
	w.workloads = append(w.workloads, remote)
	w.replace()
	w.addAddr(req.Netns, others)
	if err := w.join("web"); err == nil {
		t.Error("enrolled with the address of another pod")
	}
	if in, out := w.datapath.Steered(w.sandboxes["web"].Cookie); !in || !out {
		t.Errorf("let out meanwhile: inbound %v, outbound %v", in, out)
	}

	w.addAddr(req.Netns, next)
	w.eventually("the pod is taken over", func() bool { return slices.Equal(w.steered("web"), []netip.Addr{next}) })
	w.want("web", carried)
	if got := w.connectsTo("web", netip.MustParseAddrPort("10.1.0.1:80")); got != carried {
		t.Errorf("connections to what was the pod's address are %s", got)
	}
}

// join tries to enroll a pod.
func (w *world) join(uid string) error {
	w.t.Helper()
	pod, ok := w.pods.byID("c-" + uid)
	if !ok {
		w.t.Fatalf("no pod %s", uid)
	}
	return w.pods.converge(w.t.Context(), pod)
}

// forbidden says that the kernel refused a connection at once.
func forbidden(what string) bool { return strings.Contains(what, "operation not permitted") }

var (
	six    = netip.MustParseAddr("fd01::1")
	farSix = netip.MustParseAddrPort("[fd09::9]:80")
)

// sixOff switches the IPv6 of a pod off or on. When it is on again, an operator
// gives the pod its address again.
func (w *world) sixOff(uid string, off bool) {
	w.t.Helper()
	path, value := w.sandboxes[uid].Netns, "0"
	if off {
		value = "1"
	}
	w.inNetns(path, func() error {
		return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte(value), 0)
	})
	if !off {
		w.addAddr(path, six)
	}
}

func (w *world) dualStack(uid string, meshed bool) enroll.Request {
	w.t.Helper()
	req := w.pod(uid, "10.1.0.1", meshed)
	w.addAddr(req.Netns, six)
	req.IPs = append(req.IPs, six)
	w.workloads[len(w.workloads)-1].Addrs = addrs("10.1.0.1", six.String())
	w.replace()
	return req
}

// wantSix wants that a pod talks over IPv4, and over IPv6 if that is on; if not,
// that it is told at once.
func (w *world) wantSix(uid string, on bool) {
	w.t.Helper()
	w.want(uid, carried)
	w.eventually(fmt.Sprintf("IPv6 is on: %v", on), func() bool {
		got := w.connectsTo(uid, farSix)
		return on && got == carried || !on && forbidden(got)
	})
}

func TestIPv6MayBeSwitchedOffAndOn(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.dualStack("web", true), enroll.Enrolled)
	w.wantSix("web", true)
	for range 2 {
		w.sixOff("web", true)
		w.wantSix("web", false)
		w.sixOff("web", false)
		w.wantSix("web", true)
	}
}

func TestAPodIsServedAtTheAddressesThatItHolds(t *testing.T) {
	t.Run("when ztunnel comes back", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.add(w.dualStack("web", true), enroll.Enrolled)
		w.kill()
		w.sixOff("web", true)
		w.start()
		w.eventually("the pod is enrolled", func() bool { return w.connects("web") == carried })
		w.wantSix("web", false)
		w.sixOff("web", false)
		w.wantSix("web", true)
	})
	t.Run("when it is labelled", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		w.add(w.dualStack("web", false), enroll.Ignore)
		w.sixOff("web", true)
		w.label("web", true)
		w.eventually("the pod is enrolled", func() bool { return w.connects("web") == carried })
		w.wantSix("web", false)
		w.sixOff("web", false)
		w.wantSix("web", true)
	})
	t.Run("when it is added", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		req := w.dualStack("web", true)
		w.sixOff("web", true)
		w.add(req, enroll.Enrolled)
		w.wantSix("web", false)
	})
	t.Run("but not if it holds none", func(t *testing.T) {
		w := newWorld(t)
		w.start()
		req := w.dualStack("web", true)
		w.sixOff("web", true)
		w.delAddr(req.Netns, netip.MustParseAddr("10.1.0.1"))
		if reply := w.add(req, enroll.Block); !strings.Contains(reply.Reason, "holds none of the pod's addresses [10.1.0.1 fd01::1]") {
			t.Errorf("blocked because %s", reply.Reason)
		}
	})
}
