// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The rules and routes that Route wants, and how they are known again.

func innerRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = family
	rule.Mark = innerMark
	rule.Table = innerTable
	rule.Priority = innerPriority
	rule.Protocol = ourProtocol
	return rule
}

// innerRoute makes every destination local.
func innerRoute(v view, family int) netlink.Route {
	all := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == unix.AF_INET6 {
		all = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netlink.Route{
		LinkIndex: v.loopback(),
		Dst:       ipNet(all),
		Table:     innerTable,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Family:    family,
		Priority:  defaultMetric(family),
		Protocol:  ourProtocol,
	}
}

// defaultMetric is what the kernel makes of a route's metric of 0.
func defaultMetric(family int) int {
	if family == unix.AF_INET6 {
		return 1024
	}
	return 0
}

// guardRule refuses what is addressed to a stand-in when no route makes it
// local: connections that are open would else go on in plaintext, to the wire.
func (d *Datapath) guardRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = family
	rule.Dst = ipNet(d.standIn(family))
	rule.Type = unix.RTN_UNREACHABLE
	rule.Priority = guardPriority
	rule.Protocol = ourProtocol
	return rule
}

// barrier does so when the rule is gone, too.
func (d *Datapath) barrier(family int) netlink.Route {
	return netlink.Route{
		Dst:      ipNet(d.standIn(family)),
		Table:    unix.RT_TABLE_MAIN,
		Type:     unix.RTN_UNREACHABLE,
		Family:   family,
		Priority: defaultMetric(family),
		Protocol: ourProtocol,
	}
}

// standInRoute makes stand-ins local. There is one for each device: a socket
// that is bound to a device finds no other.
func (d *Datapath) standInRoute(v view, family int, by device, addrs []netip.Addr) netlink.Route {
	metric := 1024 + by.index
	if by.flags&unix.IFF_LOOPBACK != 0 {
		metric = 1 // before the others
	}
	return netlink.Route{
		LinkIndex: by.index,
		Dst:       ipNet(d.standIn(family)),
		Src:       v.source(addrs, family, by.index).AsSlice(),
		Table:     unix.RT_TABLE_LOCAL,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Family:    family,
		Priority:  metric,
		Protocol:  ourProtocol,
	}
}

// addRoute leaves the choice of a source to the kernel while the address is
// tentative. When it is not any more, Verify or the next Route sets it.
func addRoute(r netlink.Route) error {
	err := netlink.RouteReplace(&r)
	if r.Family == unix.AF_INET6 && r.Src != nil && errors.Is(err, unix.EINVAL) {
		r.Src = nil
		err = netlink.RouteReplace(&r)
	}
	return err
}

func sameKey(a, b netlink.Route) bool {
	return a.Family == b.Family && a.Table == b.Table && a.Priority == b.Priority && a.Type == b.Type && a.Dst.String() == b.Dst.String() &&
		(a.LinkIndex == b.LinkIndex || a.Type == unix.RTN_UNREACHABLE)
}

func (v view) sameRoute(have, want netlink.Route) bool {
	return sameKey(have, want) && (have.Src.Equal(want.Src) || have.Src == nil && want.Family == unix.AF_INET6 && v.isTentative(want.Src))
}

func sameRule(have, want netlink.Rule) bool {
	sameDst := have.Dst == nil && want.Dst == nil || have.Dst != nil && want.Dst != nil && have.Dst.String() == want.Dst.String()
	return have.Family == want.Family && have.Priority == want.Priority && have.Mark == want.Mark && have.Table == max(want.Table, 0) && sameDst
}

// isOurRule knows those of older versions by their shape.
func isOurRule(r netlink.Rule) bool {
	return r.Protocol == ourProtocol || r.Priority == innerPriority && r.Mark == innerMark && r.Table == innerTable
}

func isOurRoute(r netlink.Route) bool {
	return (r.Protocol == ourProtocol || r.Table == innerTable) && slices.ContainsFunc(ourRoutes, func(ours netlink.Route) bool {
		return r.Table == ours.Table && r.Type == ours.Type
	})
}

func (d *Datapath) isStandInRoute(r netlink.Route) bool {
	return r.Protocol == ourProtocol && r.Dst.String() == d.standIn(r.Family).String()
}
