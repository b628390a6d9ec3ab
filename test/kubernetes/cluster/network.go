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
	if err := addAddress(bridgeName, netip.PrefixFrom(controlPlane, nodeNetwork.Bits())); err != nil {
		return err
	}
	return bringUp(bridgeName)
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

// configureNode gives this netns, a node's, its address and the way out of it.
func configureNode(n node) error {
	err := errors.Join(
		bringUp("lo"),
		addAddress("eth0", netip.PrefixFrom(n.Addr, nodeNetwork.Bits())),
		bringUp("eth0"),
	)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Gw: controlPlane.AsSlice()})
}

// routePods routes from this netns to a node's pods, and from the node, whose first
// process is pid, to all others': what a CNI daemon does. pods are the prefixes by node.
func routePods(n node, pid int, pods map[string]netip.Prefix) error {
	errs := []error{netlink.RouteReplace(&netlink.Route{Dst: ipNet(pods[n.Name]), Gw: n.Addr.AsSlice()})}
	for _, other := range nodes {
		if other != n {
			errs = append(errs, routeIn(pid, &netlink.Route{Dst: ipNet(pods[other.Name]), Gw: other.Addr.AsSlice()}))
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

func addAddress(name string, prefix netip.Prefix) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return netlink.AddrAdd(link, &netlink.Addr{IPNet: ipNet(prefix)})
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
