// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"encoding/binary"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// What the kernel says of a device, a route and a rule: each is a struct of
// <linux/rtnetlink.h> and attributes after it.

// parseDevice reads a struct ifinfomsg and what follows it.
func parseDevice(entry []byte) device {
	d := device{index: number(entry[4:]), flags: uint32(number(entry[8:]))}
	for kind, value := range netns.Attributes(entry[unix.SizeofIfInfomsg:]) {
		switch kind {
		case unix.IFLA_IFNAME:
			d.name = unix.ByteSliceToString(value)
		case unix.IFLA_MASTER:
			d.master = number(value)
		case unix.IFLA_LINKINFO:
			for kind, value := range netns.Attributes(value) {
				if kind == unix.IFLA_INFO_KIND {
					d.kind = unix.ByteSliceToString(value)
				}
			}
		case unix.IFLA_AF_SPEC:
			d.acceptLocal = acceptsLocal(value)
		}
	}
	return d
}

// acceptsLocal reads the sysctl accept_local of a device, which comes with all
// others of net.ipv4.conf: to read a file of each device would take as long as a
// pod likes.
func acceptsLocal(afSpec []byte) bool {
	const inetConf, acceptLocal = 1, 23 // IFLA_INET_CONF; IPV4_DEVCONF_ACCEPT_LOCAL, the first is 1
	for family, values := range netns.Attributes(afSpec) {
		if family != unix.AF_INET {
			continue
		}
		for kind, conf := range netns.Attributes(values) {
			if kind == inetConf && len(conf) >= acceptLocal*4 {
				return number(conf[(acceptLocal-1)*4:]) != 0
			}
		}
	}
	return false
}

// parseRoute reads a struct rtmsg and what follows it.
func parseRoute(entry []byte) (r netlink.Route, ok bool) {
	if len(entry) < unix.SizeofRtMsg || binary.NativeEndian.Uint32(entry[8:])&unix.RTM_F_CLONED != 0 {
		return r, false
	}
	r = netlink.Route{Family: int(entry[0]), Table: int(entry[4]), Protocol: netlink.RouteProtocol(entry[5]),
		Scope: netlink.Scope(entry[6]), Type: int(entry[7])}
	bits, length := int(entry[1]), 32
	if r.Family == unix.AF_INET6 {
		length = 128
	}
	r.Dst = &net.IPNet{IP: make(net.IP, length/8), Mask: net.CIDRMask(bits, length)}
	for kind, value := range netns.Attributes(entry[unix.SizeofRtMsg:]) {
		switch kind {
		case unix.RTA_DST:
			r.Dst.IP = net.IP(slices.Clone(value))
		case unix.RTA_PREFSRC:
			r.Src = net.IP(slices.Clone(value))
		case unix.RTA_OIF:
			r.LinkIndex = number(value)
		case unix.RTA_PRIORITY:
			r.Priority = number(value)
		case unix.RTA_TABLE:
			r.Table = number(value)
		}
	}
	return r, true
}

// parseRule reads what ours have of a struct fib_rule_hdr and what follows it.
func parseRule(entry []byte) (netlink.Rule, bool) {
	const fraDst, fraPriority, fraMark, fraTable, fraProtocol = 1, 6, 10, 15, 21
	r := *netlink.NewRule()
	if len(entry) < unix.SizeofRtMsg {
		return r, false
	}
	r.Family, r.Table, r.Type, r.Priority = int(entry[0]), int(entry[4]), entry[7], 0
	for kind, value := range netns.Attributes(entry[unix.SizeofRtMsg:]) {
		switch kind {
		case fraDst:
			r.Dst = &net.IPNet{IP: net.IP(slices.Clone(value)), Mask: net.CIDRMask(int(entry[1]), 8*len(value))}
		case fraPriority:
			r.Priority = number(value)
		case fraMark:
			r.Mark = uint32(number(value))
		case fraTable:
			r.Table = number(value)
		case fraProtocol:
			r.Protocol = value[0]
		}
	}
	return r, true
}

// attribute32 appends one of a number to a request.
func attribute32(b []byte, kind uint16, value uint32) []byte {
	b = binary.NativeEndian.AppendUint16(b, unix.SizeofRtAttr+4)
	b = binary.NativeEndian.AppendUint16(b, kind)
	return binary.NativeEndian.AppendUint32(b, value)
}

// number reads one.
func number(b []byte) int {
	if len(b) < 4 {
		return 0
	}
	return int(binary.NativeEndian.Uint32(b))
}
