// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const bridgeName = "nodes"

// makeBridge puts the bridge that joins the nodes into this netns.
func makeBridge() error {
	if err := bringUp("lo"); err != nil {
		return err
	}
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridgeName}}); err != nil {
		return fmt.Errorf("make a bridge: %w", err)
	}
	return errors.Join(addAddresses(bridgeName, controlPlane), bringUp(bridgeName))
}

// plugIn joins the netns of the process to the bridge. Its end is eth0.
func plugIn(n node, pid int) error {
	bridge, err := netlink.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	veth := &netlink.Veth{
		LinkAttrs:     netlink.LinkAttrs{Name: n.Name, MasterIndex: bridge.Attrs().Index, Flags: net.FlagUp},
		PeerName:      "eth0",
		PeerNamespace: netlink.NsPid(pid),
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make the veth of %s: %w", n.Name, err)
	}
	return nil
}

// configureNode gives this netns, a node's, its addresses and the ways out of it.
func configureNode(n node) error {
	var own dual[netip.Prefix]
	for i, addr := range n.Addrs {
		own[i] = netip.PrefixFrom(addr, controlPlane[i].Bits())
	}
	errs := []error{bringUp("lo"), addAddresses("eth0", own), bringUp("eth0")}
	for _, gateway := range controlPlane {
		errs = append(errs, netlink.RouteAdd(&netlink.Route{Gw: gateway.Addr().AsSlice()}))
	}
	return errors.Join(errs...)
}

// routePods routes from this netns to a node's pods, and from the node, whose first
// process is pid, to all others': what a CNI daemon does. pods are the prefixes by node.
func routePods(n node, pid int, pods map[string]dual[netip.Prefix]) error {
	var errs []error
	for _, other := range nodes {
		for i, prefix := range pods[other.Name] {
			route := &netlink.Route{Dst: ipNet(prefix), Gw: other.Addrs[i].AsSlice()}
			if other == n {
				errs = append(errs, netlink.RouteReplace(route))
			} else {
				errs = append(errs, routeIn(pid, route))
			}
		}
	}
	return errors.Join(errs...)
}

// routeIn sets a route in the netns of a process.
func routeIn(pid int, route *netlink.Route) error {
	ns, err := netns.GetFromPath(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
	if err != nil {
		return err
	}
	defer ns.Close()
	handle, err := netlink.NewHandleAt(ns)
	if err != nil {
		return err
	}
	defer handle.Close()
	return handle.RouteReplace(route)
}

func bringUp(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return netlink.LinkSetUp(link)
}

// addAddresses adds them to the link, to be used at once: nobody else can have them, so
// the kernel need not ask around first, as it does for IPv6.
func addAddresses(name string, own dual[netip.Prefix]) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	var errs []error
	for _, prefix := range own {
		errs = append(errs, netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(prefix), Flags: unix.IFA_F_NODAD}))
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
