// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/vishvananda/netlink"
)

// Addresses of a second network, which leads from pod to pod past the nodes.
var (
	second4 = netip.MustParsePrefix("10.79.0.0/24")
	second6 = netip.MustParsePrefix("fd79::/64")
)

// NewNetwork makes a network to which pods can be plugged while they run. It is
// gone with the lab.
func (l *Lab) NewNetwork(name string) (*Wire, error) { return l.newWire(name) }

// Plug gives a pod another device, net1, with addresses number n of the second
// network: as an operator of a virtual machine or a VPN in a pod would. ztunnel
// hears of it from the kernel only.
func (w *Wire) Plug(p *Pod, n int) (v4, v6 netip.Addr, err error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex = fmt.Sprint("plug", n), mtu, w.bridge
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: "net1", PeerNamespace: netlink.NsFd(p.ns.fd.Fd()), PeerMTU: mtu}
	if err := w.ns.nl.LinkAdd(veth); err != nil {
		return v4, v6, fmt.Errorf("plug %v: %w", p, err)
	}
	if err := w.ns.nl.LinkSetUp(veth); err != nil {
		return v4, v6, fmt.Errorf("plug %v: %w", p, err)
	}
	net1, err := p.ns.nl.LinkByName("net1")
	if err == nil {
		err = p.ns.nl.LinkSetUp(net1)
	}
	if err != nil {
		return v4, v6, fmt.Errorf("plug %v: %w", p, err)
	}
	a4, a6 := host(second4, n), host(second6, n)
	return a4.Addr(), a6.Addr(), errors.Join(p.ns.address("net1", a4), p.ns.address("net1", a6))
}

// AddAddr gives the place's device an address of a subnet, and DelAddr takes it.
func (p *Place) AddAddr(device string, addr netip.Prefix) error { return p.ns.address(device, addr) }

// DelAddr takes an address from the place's device.
func (p *Place) DelAddr(device string, addr netip.Prefix) error {
	link, err := p.ns.nl.LinkByName(device)
	if err != nil {
		return err
	}
	if err := p.ns.nl.AddrDel(link, &netlink.Addr{IPNet: ipNet(addr)}); err != nil {
		return fmt.Errorf("take address %v from %s: %w", addr, device, err)
	}
	return nil
}

// Announce has the pod's object say these addresses beside its own, and waits
// until every ztunnel knows.
func (p *Pod) Announce(ctx context.Context, more ...netip.Addr) error {
	err := p.change(func(o *corev1.Pod) {
		o.Status.PodIPs = []corev1.PodIP{{IP: p.IP4.String()}, {IP: p.IP6.String()}}
		for _, addr := range more {
			o.Status.PodIPs = append(o.Status.PodIPs, corev1.PodIP{IP: addr.String()})
		}
	})
	if err != nil {
		return err
	}
	return p.Node.lab.Settle(ctx)
}
