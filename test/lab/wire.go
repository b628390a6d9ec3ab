// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// Addresses of the lab. Each netns is its own world: two labs do not collide.
var (
	wire4 = netip.MustParsePrefix("10.77.0.0/24")
	wire6 = netip.MustParsePrefix("fd77::/64")

	services4 = netip.MustParsePrefix("10.78.0.0/16")
	services6 = netip.MustParsePrefix("fd78::/112")
)

const (
	mtu         = 1500
	infraHost   = 100
	outsideHost = 200
	maxNodes    = 20
)

// podCIDRs are the pod addresses of node number n.
func podCIDRs(n int) (v4, v6 netip.Prefix) {
	a6 := netip.MustParseAddr("fd77::").As16()
	a6[3] = byte(n)
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, byte(n), 0}), 24), netip.PrefixFrom(netip.AddrFrom16(a6), 64)
}

// host is address number n of a subnet.
func host(subnet netip.Prefix, n int) netip.Prefix {
	addr := subnet.Addr().AsSlice()
	addr[len(addr)-2], addr[len(addr)-1] = addr[len(addr)-2]+byte(n>>8), byte(n)
	a, _ := netip.AddrFromSlice(addr)
	return netip.PrefixFrom(a, subnet.Bits())
}

// Wire is what lies between the nodes: a bridge in a netns of its own.
type Wire struct {
	lab    *Lab
	ns     *namespace
	bridge int // its index
}

func (l *Lab) newWire(name string) (*Wire, error) {
	ns, err := l.newNamespace(name)
	if err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	// Without a querier, snooping could hold back neighbour solicitations.
	snooping := false
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := ns.nl.LinkAdd(br); err != nil {
		return nil, fmt.Errorf("make the wire's bridge: %w", err)
	}
	if err := ns.nl.LinkSetUp(br); err != nil {
		return nil, fmt.Errorf("make the wire's bridge: %w", err)
	}
	return &Wire{lab: l, ns: ns, bridge: br.Attrs().Index}, nil
}

// attach plugs ns into the wire as host number n, with device eth0.
func (w *Wire) attach(name string, ns *namespace, n int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = name, mtu, w.bridge
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns.fd.Fd()), PeerMTU: mtu}
	if err := w.ns.nl.LinkAdd(veth); err != nil {
		return fmt.Errorf("plug %s into the wire: %w", name, err)
	}
	if err := w.ns.nl.LinkSetUp(veth); err != nil {
		return fmt.Errorf("plug %s into the wire: %w", name, err)
	}
	for _, subnet := range []netip.Prefix{wire4, wire6} {
		if err := ns.address("eth0", host(subnet, n)); err != nil {
			return err
		}
	}
	eth0, err := ns.nl.LinkByName("eth0")
	if err != nil {
		return err
	}
	return ns.nl.LinkSetUp(eth0)
}

// Capture captures all that passes between nodes, infra and outside, until
// Stop. Traffic between two pods of one node is not on the wire.
func (w *Wire) Capture(context.Context) (c *capture.Capture, err error) {
	err = w.lab.thread.in(w.ns.fd, func() error {
		c, err = capture.Open(capture.Config{Ignore: []int{w.bridge}})
		return err
	})
	return c, err
}
