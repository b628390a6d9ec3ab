// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// A pod may give itself a million addresses. Beyond these limits Addrs gives up.
const (
	maxListed = 1 << 15
	listTime  = 3 * time.Second
)

// Addrs returns the addresses of the namespace by which others can reach it:
// those of every device, neither loopback nor link-local ones. Tentative are the
// IPv6 ones that the kernel does not take for its own yet, as duplicate address
// detection has not ended. An address that another machine turned out to have is
// in neither list, nor is any of IPv6 while that is off on lo: without it, the
// kernel delivers nothing that the namespace sends to itself. More than 32,768
// addresses are an error.
func (ns *NS) Addrs() (settled, tentative []netip.Addr, err error) {
	var found []DeviceAddr
	err = ns.Do(func() (err error) {
		found, err = listAddrs()
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of netns %d: %w", ns.cookie, err)
	}
	settled, tentative = sortOut(found)
	return settled, tentative, nil
}

// listAddrs lists those of the thread's netns. While they change all the time, the
// last answer has to do.
func listAddrs() (found []DeviceAddr, err error) {
	a, err := NewAsker(unix.NETLINK_ROUTE, time.Now().Add(listTime))
	if err != nil {
		return nil, err
	}
	defer a.Close()
	_, err = a.Steadily(func() error {
		found = found[:0]
		return a.Addrs(func(addr DeviceAddr) error {
			if len(found) == maxListed {
				return fmt.Errorf("more than %d addresses", maxListed)
			}
			found = append(found, addr)
			return nil
		})
	})
	return found, err
}

// DeviceAddr is an address of one device.
type DeviceAddr struct {
	Addr   netip.Addr
	Device int    // its index
	Flags  uint32 // IFA_F_*
}

// Addrs calls f with the addresses of all devices of the netns, as Dump does.
func (a *Asker) Addrs(f func(DeviceAddr) error) error {
	return a.Dump(unix.RTM_GETADDR, make([]byte, unix.SizeofIfAddrmsg), func(entry []byte) error {
		if len(entry) < unix.SizeofIfAddrmsg {
			return nil
		}
		return f(parseAddr(entry))
	})
}

// sortOut drops what nobody can reach, such as an IPv4 address in IPv6 form: no packet
// of IPv4 is delivered to it. One address may be that of two devices.
func sortOut(found []DeviceAddr) (settled, tentative []netip.Addr) {
	six := slices.ContainsFunc(found, func(a DeviceAddr) bool { return a.Addr == netip.IPv6Loopback() })
	seen := make(map[netip.Addr]bool, len(found))
	for _, unsettled := range []bool{false, true} {
		for _, a := range found {
			if seen[a.Addr] || a.unsettled() != unsettled || !a.Addr.IsGlobalUnicast() || a.Addr.Is4In6() || a.Addr.Is6() && !six {
				continue
			}
			switch {
			case !unsettled:
				settled = append(settled, a.Addr)
			case a.Flags&unix.IFA_F_DADFAILED == 0:
				tentative = append(tentative, a.Addr)
			}
			seen[a.Addr] = true
		}
	}
	return settled, tentative
}

// unsettled says that the kernel does not deliver to the address. To an
// optimistic one it does from the start.
func (a DeviceAddr) unsettled() bool {
	return a.Flags&unix.IFA_F_DADFAILED != 0 || a.Flags&unix.IFA_F_TENTATIVE != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0
}

// parseAddr reads a struct ifaddrmsg and what follows it. It prefers IFA_LOCAL: with
// a peer, IFA_ADDRESS is the peer's.
func parseAddr(entry []byte) (a DeviceAddr) {
	a.Device = int(binary.NativeEndian.Uint32(entry[4:]))
	a.Flags = uint32(entry[2]) // IFA_FLAGS has those beyond a byte
	var local, address netip.Addr
	for kind, value := range Attributes(entry[unix.SizeofIfAddrmsg:]) {
		switch {
		case kind == unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(value)
		case kind == unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(value)
		case kind == unix.IFA_FLAGS && len(value) == 4:
			a.Flags = binary.NativeEndian.Uint32(value)
		}
	}
	a.Addr = local
	if !local.IsValid() {
		a.Addr = address
	}
	return a
}
