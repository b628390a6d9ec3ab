// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// addDevices makes devices of these numbers that are up, and their other ends, which
// are down.
func addDevices(from, to int) error {
	for i := from; i < to; i++ {
		d := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("more", i), Flags: net.FlagUp}, PeerName: fmt.Sprint("peer", i)}
		if err := netlink.LinkAdd(d); err != nil {
			return err
		}
	}
	return nil
}

func removeDevices(from, to int) error {
	for i := from; i < to; i++ {
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("more", i)}}); err != nil {
			return err
		}
	}
	return nil
}

// An operator is told when it begins and when it ends, of which pod, and how many.
func TestAPodWithTooManyDevicesIsSaidAndCounted(t *testing.T) {
	w := newWorld(t)
	said := w.listen()
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	m, resume := w.unattended("web")
	defer resume()
	for _, tc := range []struct {
		change       func() error
		crowded      int // devices beyond the limit
		counted      string
		begins, ends int // lines in the log
	}{
		{func() error { return addDevices(0, 63) }, 0, "0", 0, 0}, // and lo
		{func() error { return addDevices(63, 70) }, 7, "7", 1, 0},
		{func() error { return addDevices(70, 73) }, 10, "10", 1, 0},
		{func() error { return removeDevices(5, 73) }, 0, "10", 1, 1},
		{func() error { return addDevices(5, 73) }, 10, "20", 2, 1},
	} {
		w.inNetns(req.Netns, tc.change)
		if err := w.pods.refresh(m); err != nil {
			t.Fatal(err)
		}
		if got := w.pods.Dump()["web"].Addresses.Crowded; got != tc.crowded {
			t.Errorf("the dump has %d devices too many, want %d", got, tc.crowded)
		}
		if got := w.metric("culvert_pod_devices_refused_total"); got != tc.counted {
			t.Errorf("%s were counted, want %s", got, tc.counted)
		}
		begins := said.lines("level=WARN", "a pod has more devices than are steered", "pod=shop/web", "devices=")
		ends := said.lines("level=INFO", "a pod has no more devices than are steered", "pod=shop/web")
		if begins != tc.begins || ends != tc.ends {
			t.Errorf("it was said that it began %d times and ended %d times, want %d and %d", begins, ends, tc.begins, tc.ends)
		}
	}
}

// Whoever changes addresses and devices at once must not escape the look at devices.
func TestDevicesAreLookedAtWhenAddressesChangeToo(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	m, resume := w.unattended("web")
	defer resume()
	w.inNetns(req.Netns, func() error { return addDevices(0, 70) })
	later := netip.MustParseAddr("10.8.0.1")
	w.addAddr(req.Netns, later)
	if err := w.pods.refresh(m); err != nil {
		t.Fatal(err)
	}
	if got := w.steered("web"); !slices.Contains(got, later) {
		t.Errorf("steered at %v, without %v", got, later)
	}
	if got := m.addresses.state().Crowded; got != 7 {
		t.Errorf("crowded by %d, want 7", got)
	}
}

// unattended has nobody look at an enrolled pod but the test, until resume; its netns
// is not followed any more.
func (w *world) unattended(uid string) (m *member, resume func()) {
	w.t.Helper()
	pod, ok := w.pods.byID("c-" + uid)
	if !ok {
		w.t.Fatalf("no pod %s", uid)
	}
	pod.visited.Lock()
	pod.mu.Lock()
	defer pod.mu.Unlock()
	if err := w.pods.stopFollowing(w.t.Context(), pod.member); err != nil {
		w.t.Error(err)
	}
	return pod.member, pod.visited.Unlock
}

// A device may come between the routing of a pod and its steering, as when ztunnel starts
// beside a runtime that adds a network.
func TestADeviceThatCameSinceThePodWasRoutedKeepsNobodyOut(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	m, resume := w.unattended("web")
	defer resume()
	w.inNetns(req.Netns, func() error { return addDevices(0, 1) })
	if err := w.pods.Datapath.SteerOutbound(m.steered()); !errors.Is(err, redirect.ErrNotRouted) {
		t.Fatalf("it is not seen: %v", err)
	}
	if err := w.pods.steerOutbound(t.Context(), m); err != nil {
		t.Error(err)
	}
	if !w.routed("web") {
		t.Error("the pod is not routed")
	}
}
