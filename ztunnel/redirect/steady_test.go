// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Of devices that change while they are read, some may be missing: a pod that changes
// them all the time must not lose its guard by that.
func TestDevicesThatNeverRestAreNotTakenForAll(t *testing.T) {
	w := newWorld(t)
	n := w.enrolled().nest()
	ns, own := n.testPodNS.ns, n.s.Addrs
	w.in(ns, func() error { return addAddrs("docker0", 2000) }) // more than the kernel says in one datagram
	look := func() error {
		behind, err := Forwards(ns, own)
		if err == nil && !slices.Equal(behind, []string{"docker0"}) {
			t.Errorf("the pod forwards by %q", behind)
		}
		return err
	}
	rest := neverRest(t, ns)
	err := look()
	for end := time.Now().Add(10 * time.Second); err == nil && time.Now().Before(end); {
		err = look()
	}
	rest()
	if err == nil || !strings.Contains(err.Error(), "devices change while they are read") {
		t.Errorf("Forwards while addresses come and go: %v", err)
	}
	if err := look(); err != nil {
		t.Errorf("Forwards at rest: %v", err)
	}
}

func addAddrs(dev string, n int) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer h.Close()
	l, err := h.LinkByName(dev)
	for i := 0; i < n && err == nil; i++ {
		err = h.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 99, byte(i>>8), byte(i)), Mask: net.CIDRMask(32, 32)}})
	}
	return err
}

// neverRest adds and removes an address of lo all the time, until rest.
func neverRest(t *testing.T, ns *netns.NS) (rest func()) {
	t.Helper()
	var resting atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- ns.Do(func() error {
			for !resting.Load() {
				addr := netip.MustParseAddr("10.98.0.1")
				if err := errors.Join(addAddr("lo", addr, 32), delAddr("lo", addr)); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	return func() {
		t.Helper()
		resting.Store(true)
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
