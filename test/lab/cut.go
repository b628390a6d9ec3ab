// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// Capture captures what passes the pod's own device, until Stop. What stays
// inside the pod is not on it.
func (p *Pod) Capture(context.Context) (c *capture.Capture, err error) {
	eth0, err := p.ns.nl.LinkByName("eth0")
	if err != nil {
		return nil, fmt.Errorf("find the device of pod %v: %w", p, err)
	}
	err = p.lab.thread.in(p.ns.fd, func() error {
		c, err = capture.Open(capture.Config{Device: eth0.Attrs().Index})
		return err
	})
	return c, err
}

// Cut has the network of the node drop what goes to a TCP port of a pod, and
// the answers, without a word to either end: as most make a NetworkPolicy. mend
// ends that.
func (n *Node) Cut(to *Pod, port uint16) (mend func() error, err error) {
	return n.cut(port, to.IP4, to.IP6)
}

// CutFromCA is Cut of what the node says to a CA.
func (n *Node) CutFromCA(i *Identity) (mend func() error, err error) {
	return n.cut(i.Addr.Port(), i.Addr.Addr())
}

func (n *Node) cut(port uint16, addrs ...netip.Addr) (mend func() error, err error) {
	var made []*netlink.Rule
	mend = func() error {
		var problems []error
		for _, r := range made {
			problems = append(problems, n.ns.nl.RuleDel(r))
		}
		made = nil
		return errors.Join(problems...)
	}
	only := netlink.NewRulePortRange(port, port)
	for _, addr := range addrs {
		host := &net.IPNet{IP: addr.AsSlice(), Mask: net.CIDRMask(addr.BitLen(), addr.BitLen())}
		there, back := blackhole(addr), blackhole(addr)
		there.Dst, there.Dport = host, only
		back.Src, back.Sport = host, only
		for _, r := range []*netlink.Rule{there, back} {
			if err := n.ns.nl.RuleAdd(r); err != nil {
				return nil, errors.Join(fmt.Errorf("cut port %d of %v: %w", port, addr, err), mend())
			}
			made = append(made, r)
		}
	}
	return mend, nil
}

// blackhole is a rule that drops TCP of addr's family, before any route.
func blackhole(addr netip.Addr) *netlink.Rule {
	r := netlink.NewRule()
	r.Priority, r.IPProto, r.Type, r.Family = 100, unix.IPPROTO_TCP, unix.RTN_BLACKHOLE, netlink.FAMILY_V6
	if addr.Is4() {
		r.Family = netlink.FAMILY_V4
	}
	return r
}
