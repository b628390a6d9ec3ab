// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// hbonePort is HBONE_PORT of bpf/mesh.h, and of the protocol.
const hbonePort = 15008

const (
	// innerMark is on the packets of ztunnel's legs to the app, in both
	// directions: nothing but the way back to ztunnel depends on it.
	innerMark = 0x0c01ef7
	// innerTable and innerPriority (before main, which has 32766) are the
	// pod's own: they are in no one's way.
	innerTable    = hbonePort
	innerPriority = 32764
	// guardPriority is right after the table local, which has 0: whatever
	// rules a pod has, what is addressed to a stand-in takes none of them.
	guardPriority = 1
	// ourProtocol marks the routes and rules that are ours.
	ourProtocol = 208
)

// Route prepares a netns that has these addresses. It makes the answers to
// ztunnel's legs to the app come back to ztunnel, although they are addressed to
// the client that ztunnel poses as; and it makes stand-ins local, with the pod's
// address as source. It comes before SteerInbound: without fwmark_reflect, a
// refused port would look like a timeout.
//
// It changes what is not as it should be and nothing else: call it again when
// addresses or devices of the netns have changed.
func (d *Datapath) Route(ns *netns.NS, addrs []netip.Addr) error {
	defer d.routing.Lock(ns.Cookie())()
	err := ns.Do(func() error {
		v, err := d.look(addrs)
		if err != nil {
			return err
		}
		if err := v.refuseAcceptLocal(); err != nil {
			return err
		}
		if !slices.ContainsFunc(v.routes, d.isStandInRoute) {
			if err := d.refuseOverlap(v.families); err != nil {
				return err
			}
		}
		needs, err := d.needs(ns.Cookie(), v, addrs)
		if err != nil {
			return err
		}
		if err := d.noteRouted(ns.Cookie()); err != nil {
			return err
		}
		for _, n := range needs {
			if n.met {
				continue
			}
			if err := n.meet(); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("route in netns %d: %w", ns.Cookie(), err)
	}
	return nil
}

// Routing is what CheckRoute finds.
type Routing struct {
	Missing []string // what Route would change, by name
	Excess  int      // devices beyond those that are steered: while there are any, sockets bound to a device are refused
}

// CheckRoute returns how a netns is routed, or why Route would refuse.
func (d *Datapath) CheckRoute(ns *netns.NS, addrs []netip.Addr) (found Routing, err error) {
	err = ns.Do(func() error {
		v, err := d.look(addrs)
		if err != nil {
			return err
		}
		if err := v.refuseAcceptLocal(); err != nil {
			return err
		}
		needs, err := d.needs(ns.Cookie(), v, addrs)
		for _, n := range needs {
			if !n.met {
				found.Missing = append(found.Missing, n.name)
			}
		}
		_, found.Excess = v.steeredDevices()
		return err
	})
	if err != nil {
		return Routing{}, fmt.Errorf("routes of netns %d: %w", ns.Cookie(), err)
	}
	return found, nil
}

// ErrInUse says that a netns has connections that were steered and are open.
var ErrInUse = errors.New("connections to stand-ins are open")

// Unroute undoes Route: rules, routes, and the sysctls that it found unset.
// Connections that ztunnel carries for the pod end by it, so it comes after they
// did and after UnsteerOutbound. A netns that is not routed is no error.
//
// As long as an app holds a socket that is connected to a stand-in, even if
// ztunnel's end is closed, what keeps its packets inside the pod stays, and
// Unroute returns ErrInUse. To the app that does no harm.
func (d *Datapath) Unroute(ns *netns.NS) error {
	defer d.routing.Lock(ns.Cookie())()
	if _, outbound := d.Steered(ns.Cookie()); outbound {
		return fmt.Errorf("unroute in netns %d: its outbound connections are steered", ns.Cookie())
	}
	err := ns.Do(func() error {
		v, err := d.look(nil)
		if err != nil {
			return err
		}
		inUse, err := d.holdsStandIns()
		if err != nil {
			return err
		}
		keep := func(dst *net.IPNet) bool {
			p, ok := prefixOf(dst)
			return inUse && ok && slices.Contains(d.standIns, p)
		}
		problems := []error{d.restoreSysctls(ns.Cookie())}
		for _, route := range v.routes {
			if isOurRoute(route) && !keep(route.Dst) {
				problems = append(problems, ignoring(netlink.RouteDel(&route), unix.ESRCH, unix.ENOENT, unix.ENODEV))
			}
		}
		for _, rule := range v.rules {
			if isOurRule(rule) && !keep(rule.Dst) {
				problems = append(problems, ignoring(netlink.RuleDel(&rule), unix.ENOENT))
			}
		}
		if err := errors.Join(problems...); err != nil {
			return err
		}
		if inUse {
			return ErrInUse
		}
		return del(d.mesh.Routed, uint64(ns.Cookie()))
	})
	if err != nil {
		return fmt.Errorf("unroute in netns %d: %w", ns.Cookie(), err)
	}
	return nil
}

func ignoring(err error, harmless ...error) error {
	for _, h := range harmless {
		if errors.Is(err, h) {
			return nil
		}
	}
	return err
}

// need is one thing that steering wants of a netns.
type need struct {
	name string
	met  bool
	meet func() error
}

// needs lists what a netns must have, in the order in which it is made: what
// keeps a stand-in inside the pod comes before what makes it reachable.
func (d *Datapath) needs(cookie netns.Cookie, v view, addrs []netip.Addr) ([]need, error) {
	needs, err := d.sysctlNeeds(cookie)
	if err != nil {
		return nil, err
	}
	devices, _ := v.steeredDevices()
	var wanted []netlink.Route
	route := func(name string, r netlink.Route) {
		wanted = append(wanted, r)
		needs = append(needs, need{name, slices.ContainsFunc(v.routes, func(have netlink.Route) bool { return v.sameRoute(have, r) }), func() error { return addRoute(r) }})
	}
	rule := func(name string, r *netlink.Rule) {
		needs = append(needs, need{name, slices.ContainsFunc(v.rules, func(have netlink.Rule) bool { return sameRule(have, *r) }), func() error {
			return ignoring(netlink.RuleAdd(r), unix.EEXIST)
		}})
	}
	for _, family := range v.families {
		ip := familyName(family)
		route(ip+" route of inner legs", innerRoute(v, family))
		rule(ip+" rule of inner legs", innerRule(family))
		src := v.source(addrs, family, 0)
		if !src.IsValid() {
			continue
		}
		rule(ip+" guard rule of stand-ins", d.guardRule(family))
		route(ip+" barrier of stand-ins", d.barrier(family))
		for _, device := range devices {
			route(ip+" route of stand-ins by "+device.name, d.standInRoute(v, family, device, addrs))
		}
	}
	for _, have := range v.routes {
		if have.Protocol == ourProtocol && !slices.ContainsFunc(wanted, func(r netlink.Route) bool { return sameKey(have, r) }) {
			needs = append(needs, need{"removal of the route to " + have.Dst.String(), false, func() error {
				return ignoring(netlink.RouteDel(&have), unix.ESRCH, unix.ENOENT)
			}})
		}
	}
	return needs, nil
}

func familyName(family int) string {
	if family == unix.AF_INET6 {
		return "IPv6"
	}
	return "IPv4"
}

// refuseOverlap refuses a pod that has something among the stand-ins, which it
// could not reach any more. It looks at all addresses and routes, for a pod that is
// not routed yet.
func (d *Datapath) refuseOverlap(families []int) error {
	a, err := netns.NewAsker(unix.NETLINK_ROUTE, time.Now().Add(lookTime))
	if err != nil {
		return err
	}
	defer a.Close()
	err = a.Addrs(func(found netns.DeviceAddr) error {
		if slices.ContainsFunc(d.standIns, func(p netip.Prefix) bool { return p.Contains(found.Addr) }) {
			return fmt.Errorf("the address %v of the pod is among the stand-ins %v: choose others", found.Addr, d.standIns)
		}
		return nil
	})
	for _, family := range families {
		if err != nil {
			break
		}
		request := make([]byte, unix.SizeofRtMsg)
		request[0] = byte(family)
		err = a.Dump(unix.RTM_GETROUTE, request, d.refuseOverlapping)
	}
	return err
}

func (d *Datapath) refuseOverlapping(entry []byte) error {
	r, ok := parseRoute(entry)
	if !ok || isOurRoute(r) || leadsNowhere(r) {
		return nil
	}
	dst, ok := prefixOf(r.Dst)
	if !ok || dst.Bits() <= 1 { // halves of everything stand for a default route
		return nil
	}
	if slices.ContainsFunc(d.standIns, dst.Overlaps) {
		return fmt.Errorf("the route to %v of the pod overlaps the stand-ins %v: choose others", dst, d.standIns)
	}
	return nil
}

func leadsNowhere(r netlink.Route) bool {
	return r.Type == unix.RTN_UNREACHABLE || r.Type == unix.RTN_BLACKHOLE || r.Type == unix.RTN_PROHIBIT
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), ones), ok
}
