// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Stand-ins are the addresses that connections of a pod are sent to instead of
// where they go: one for each destination, local in every enrolled pod. Nobody
// else may have an address among them. 240.0.0.0/4 is reserved by RFC 1112, and
// 100:0:0:1::/64 is the dummy prefix of RFC 9780.
var defaultStandIns = []netip.Prefix{
	netip.MustParsePrefix("240.0.0.0/8"), netip.MustParsePrefix("100:0:0:1::/64"),
}

// standInBits is how many addresses, as a power of two, a prefix must have:
// among fewer, destinations would often share one.
const standInBits = 16

// StandIns returns the prefixes of stand-ins, IPv4 first: those given, which
// may be one of each family, and the default of a family that is not given.
func StandIns(given []netip.Prefix) ([]netip.Prefix, error) {
	prefixes := slices.Clone(defaultStandIns)
	var problems []error
	seen := make(map[bool]bool)
	for _, p := range given {
		if err := checkStandIn(p); err != nil {
			problems = append(problems, err)
			continue
		}
		six := p.Addr().Is6()
		if seen[six] {
			problems = append(problems, fmt.Errorf("stand-in prefix %v is the second of its family", p))
		}
		seen[six] = true
		prefixes[index(six)] = p
	}
	return prefixes, errors.Join(problems...)
}

func checkStandIn(p netip.Prefix) error {
	switch {
	case !p.IsValid() || p != p.Masked() || p.Addr().Is4In6():
		return fmt.Errorf("stand-in prefix %v: want an address and the length of its prefix, all other bits zero", p)
	case p.Addr().BitLen()-p.Bits() < standInBits:
		return fmt.Errorf("stand-in prefix %v is too small: want %d free bits or more", p, standInBits)
	}
	for _, no := range []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32", "::/96", "::ffff:0:0/96", "fe80::/10", "ff00::/8"} {
		if p.Overlaps(netip.MustParsePrefix(no)) {
			return fmt.Errorf("stand-in prefix %v overlaps %s, which is no place for connections", p, no)
		}
	}
	return nil
}

// DisjointStandIns says which of others overlap the prefixes of stand-ins, so
// that connections to them could not leave a pod. kind is what others are.
func DisjointStandIns(standIns, others []netip.Prefix, kind string) error {
	var problems []error
	for _, p := range standIns {
		for _, other := range others {
			if p.Overlaps(other) {
				problems = append(problems, fmt.Errorf("stand-in prefix %v overlaps %v of the %s", p, other, kind))
			}
		}
	}
	return errors.Join(problems...)
}

// index is that of a family among the prefixes.
func index(six bool) int {
	if six {
		return 1
	}
	return 0
}

func (d *Datapath) standIn(family int) netip.Prefix {
	return d.standIns[index(family == unix.AF_INET6)]
}

// uncrowded is UNCROWDED of bpf/mesh.h.
const uncrowded = 1

// standInID is how a pod's entry names the prefixes that its netns routes.
func standInID(prefixes []netip.Prefix) uint32 {
	h := fnv.New32a()
	fmt.Fprint(h, prefixes)
	return h.Sum32() | uncrowded
}

// wirePrefix has the free bits of a prefix set in Host.
func wirePrefix(p netip.Prefix) (w meshPrefix) {
	w.Addr = wireAddr(p.Addr())
	ones := p.Bits()
	if p.Addr().Is4() {
		ones += 96
	}
	var host [16]byte
	for i, b := range net.CIDRMask(ones, 128) {
		host[i] = ^b
	}
	w.Host = wireAddr(netip.AddrFrom16(host))
	return w
}

// nth returns an address of a prefix.
func nth(p netip.Prefix, n byte) netip.Addr {
	b := p.Addr().AsSlice()
	b[len(b)-1] |= n
	addr, _ := netip.AddrFromSlice(b)
	return addr
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
