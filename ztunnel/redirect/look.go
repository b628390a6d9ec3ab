// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// A pod may fill its netns with what it likes: thousands of devices and rules, a
// million routes. look asks for what steering depends on, has the kernel leave out
// the rest as far as it can, and gives up beyond these limits.
const (
	lookTime   = 3 * time.Second // for one look
	maxDevices = 64              // that have a route of stand-ins: see steeredDevices
	maxListed  = 16384           // devices
	maxRules   = 4096            // of one family
	maxRoutes  = 1024            // of one family that bear our protocol
)

// view is what a netns has, of the families that it has.
type view struct {
	families []int
	devices  []device
	held     map[netip.Addr]*holding // of the addresses that were asked about
	routes   []netlink.Route         // ours
	rules    []netlink.Rule          // ours
}

// device is what steering asks about one.
type device struct {
	index, master int
	name, kind    string
	flags         uint32 // IFF_*
	acceptLocal   bool
}

// holding says where an address is.
type holding struct {
	devices   map[int]bool // by index
	tentative bool
}

// look looks at the thread's netns, and there at these addresses.
func (d *Datapath) look(addrs []netip.Addr) (v view, err error) {
	families := []int{unix.AF_INET}
	if hasIPv6() {
		families = append(families, unix.AF_INET6)
	}
	a, err := netns.NewAsker(unix.NETLINK_ROUTE, time.Now().Add(lookTime))
	if err != nil {
		return v, err
	}
	defer a.Close()
	// In a netns that never rests, the last answer has to do.
	_, err = a.Steadily(func() error {
		v = view{families: families, held: make(map[netip.Addr]*holding, len(addrs))}
		return v.ask(a, addrs)
	})
	return v, err
}

// lookForDevices looks at devices and at which of them have these addresses. While they
// change all the time it fails: a device that it missed would go without a guard.
func lookForDevices(addrs []netip.Addr) (v view, err error) {
	a, err := netns.NewAsker(unix.NETLINK_ROUTE, time.Now().Add(lookTime))
	if err != nil {
		return v, err
	}
	defer a.Close()
	steady, err := a.Steadily(func() error {
		v = view{held: make(map[netip.Addr]*holding, len(addrs))}
		if err := v.askDevices(a); err != nil {
			return err
		}
		return v.askAddrs(a, addrs)
	})
	if err == nil && !steady {
		err = errors.New("devices change while they are read")
	}
	return v, err
}

func (v *view) ask(a *netns.Asker, addrs []netip.Addr) error {
	if err := v.askDevices(a); err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	if err := v.askAddrs(a, addrs); err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, family := range v.families {
		if err := v.askRoutes(a, family); err != nil {
			return fmt.Errorf("list %s routes: %w", familyName(family), err)
		}
		if err := v.askRules(a, family); err != nil {
			return fmt.Errorf("list %s rules: %w", familyName(family), err)
		}
	}
	return nil
}

func (v *view) askDevices(a *netns.Asker) error {
	const skipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS
	room := atMost(maxListed, "devices")
	request := attribute32(make([]byte, unix.SizeofIfInfomsg), unix.IFLA_EXT_MASK, skipStats)
	return a.Dump(unix.RTM_GETLINK, request, func(entry []byte) error {
		if len(entry) < unix.SizeofIfInfomsg {
			return nil
		}
		v.devices = append(v.devices, parseDevice(entry))
		return room()
	})
}

// askAddrs keeps those of addrs and no others, however many there are.
func (v *view) askAddrs(a *netns.Asker, addrs []netip.Addr) error {
	if len(addrs) == 0 {
		return nil
	}
	for _, addr := range addrs {
		v.held[addr] = &holding{devices: map[int]bool{}}
	}
	err := a.Addrs(func(found netns.DeviceAddr) error {
		if h := v.held[found.Addr]; h != nil {
			h.devices[found.Device], h.tentative = true, found.Flags&unix.IFA_F_TENTATIVE != 0
		}
		return nil
	})
	maps.DeleteFunc(v.held, func(_ netip.Addr, h *holding) bool { return len(h.devices) == 0 })
	return err
}

// ourRoutes are where ours are and of what type they are: all others of a pod's
// routes are none of our business, whatever protocol they bear.
var ourRoutes = []netlink.Route{
	{Table: innerTable, Type: unix.RTN_LOCAL},
	{Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL},
	{Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNREACHABLE},
}

func (v *view) askRoutes(a *netns.Asker, family int) error {
	room := atMost(maxRoutes, fmt.Sprint("routes of protocol ", ourProtocol))
	for _, ours := range ourRoutes {
		request := make([]byte, unix.SizeofRtMsg)
		request[0], request[5], request[7] = byte(family), ourProtocol, byte(ours.Type)
		if ours.Table == innerTable {
			request[5] = 0 // all that is there: that of older versions bears none
		}
		request = attribute32(request, unix.RTA_TABLE, uint32(ours.Table))
		err := a.Dump(unix.RTM_GETROUTE, request, func(entry []byte) error {
			if r, ok := parseRoute(entry); ok && isOurRoute(r) {
				v.routes = append(v.routes, r)
			}
			return room()
		})
		if err != nil && !errors.Is(err, unix.ENOENT) { // there is no such table
			return err
		}
	}
	return nil
}

func (v *view) askRules(a *netns.Asker, family int) error {
	room := atMost(maxRules, "rules")
	request := make([]byte, unix.SizeofRtMsg) // struct fib_rule_hdr is as long
	request[0] = byte(family)
	return a.Dump(unix.RTM_GETRULE, request, func(entry []byte) error {
		if r, ok := parseRule(entry); ok && isOurRule(r) {
			v.rules = append(v.rules, r)
		}
		return room()
	})
}

// source returns the first of addrs that the netns has: on a device, if it has
// one there, or on any. If it has none of them, the address is invalid.
func (v view) source(addrs []netip.Addr, family, device int) (found netip.Addr) {
	for _, addr := range addrs {
		h := v.held[addr]
		if h == nil || addr.Is6() != (family == unix.AF_INET6) {
			continue
		}
		if h.devices[device] {
			return addr
		}
		if !found.IsValid() {
			found = addr
		}
	}
	return found
}

// isTentative reports whether an IPv6 address cannot be a route's source yet.
func (v view) isTentative(addr net.IP) bool {
	ip, _ := netip.AddrFromSlice(addr)
	h := v.held[ip.Unmap()]
	return h == nil || h.tentative
}

// holders are the devices that have one of the addresses, by index.
func (v view) holders() map[int]bool {
	holds := make(map[int]bool)
	for _, h := range v.held {
		maps.Copy(holds, h.devices)
	}
	return holds
}

func (v view) loopback() int {
	for _, d := range v.devices {
		if d.flags&unix.IFF_LOOPBACK != 0 {
			return d.index
		}
	}
	return 1 // the kernel's, in each netns
}

// steeredDevices are those that have a route of stand-ins, and how many have none, as
// there are too many: then all sockets that are bound to a device are refused.
// Loopback comes first, then those that have an address of the pod, then the others,
// oldest first: so a pod that adds devices breaks nothing that is open. Ports of a
// bridge have no sockets.
func (v view) steeredDevices() (steered []device, excess int) {
	holds := v.holders()
	rank := func(d device) int {
		switch {
		case d.flags&unix.IFF_LOOPBACK != 0:
			return 0
		case holds[d.index]:
			return 1
		}
		return 2
	}
	for _, d := range v.devices {
		if d.flags&unix.IFF_UP != 0 && d.master == 0 {
			steered = append(steered, d)
		}
	}
	slices.SortFunc(steered, func(a, b device) int { return cmp.Or(rank(a)-rank(b), a.index-b.index) })
	excess = max(0, len(steered)-maxDevices)
	return steered[:len(steered)-excess], excess
}

// refuseAcceptLocal checks what inbound steering relies on: that no packet
// from the wire claims to come from the pod itself.
func (v view) refuseAcceptLocal() error {
	accepting := ""
	for _, d := range v.devices {
		if d.acceptLocal {
			accepting = d.name
		}
	}
	for _, name := range []string{"all", "default"} { // of which no device tells
		text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/accept_local")
		if err != nil {
			return err
		}
		if strings.TrimSpace(string(text)) != "0" {
			accepting = name
		}
	}
	if accepting == "" {
		return nil
	}
	return fmt.Errorf("net/ipv4/conf/%s/accept_local is set: packets could arrive under the pod's own address; set it to 0", accepting)
}

// atMost counts entries, and is an error once there are more than limit.
func atMost(limit int, what string) func() error {
	n := 0
	return func() error {
		if n++; n > limit {
			return fmt.Errorf("more than %d %s", limit, what)
		}
		return nil
	}
}
