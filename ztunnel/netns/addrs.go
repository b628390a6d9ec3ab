// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// Addrs returns the addresses of the namespace by which others can reach it:
// those of every device, neither loopback nor link-local ones. Tentative are the
// IPv6 ones that the kernel does not take for its own yet, as duplicate address
// detection has not ended. An address that another machine turned out to have is
// in neither list, nor is any of IPv6 while that is off on lo: without it, the
// kernel delivers nothing that the namespace sends to itself.
func (ns *NS) Addrs() (settled, tentative []netip.Addr, err error) {
	var dump []byte
	err = ns.Do(func() (err error) {
		dump, err = syscall.NetlinkRIB(unix.RTM_GETADDR, unix.AF_UNSPEC)
		return err
	})
	var found []deviceAddr
	if err == nil {
		found, err = parseAddrs(dump)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("addresses of netns %d: %w", ns.cookie, err)
	}
	settled, tentative = sortOut(found)
	return settled, tentative, nil
}

// deviceAddr is an address of one device; flags are the kernel's IFA_F_*.
type deviceAddr struct {
	addr  netip.Addr
	flags uint32
}

// sortOut drops what nobody can reach. One address may be that of two devices.
func sortOut(found []deviceAddr) (settled, tentative []netip.Addr) {
	six := slices.ContainsFunc(found, func(a deviceAddr) bool { return a.addr == netip.IPv6Loopback() })
	seen := make(map[netip.Addr]bool, len(found))
	for _, unsettled := range []bool{false, true} {
		for _, a := range found {
			if seen[a.addr] || a.unsettled() != unsettled || !a.addr.IsGlobalUnicast() || a.addr.Is6() && !six {
				continue
			}
			switch {
			case !unsettled:
				settled = append(settled, a.addr)
			case a.flags&unix.IFA_F_DADFAILED == 0:
				tentative = append(tentative, a.addr)
			}
			seen[a.addr] = true
		}
	}
	return settled, tentative
}

// unsettled says that the kernel does not deliver to the address. To an
// optimistic one it does from the start.
func (a deviceAddr) unsettled() bool {
	return a.flags&unix.IFA_F_DADFAILED != 0 || a.flags&unix.IFA_F_TENTATIVE != 0 && a.flags&unix.IFA_F_OPTIMISTIC == 0
}

func parseAddrs(dump []byte) ([]deviceAddr, error) {
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, err
	}
	var found []deviceAddr
	for i := range messages {
		if messages[i].Header.Type != unix.RTM_NEWADDR {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&messages[i])
		if err != nil {
			return nil, err
		}
		found = append(found, parseAddr(messages[i].Data, attrs))
	}
	return found, nil
}

// parseAddr prefers IFA_LOCAL: with a peer, IFA_ADDRESS is the peer's.
func parseAddr(header []byte, attrs []syscall.NetlinkRouteAttr) (a deviceAddr) {
	a.flags = uint32(header[2]) // struct ifaddrmsg; IFA_FLAGS has those beyond a byte
	var local, address netip.Addr
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL:
			local, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			address, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_FLAGS:
			a.flags = binary.NativeEndian.Uint32(attr.Value)
		}
	}
	a.addr = local
	if !local.IsValid() {
		a.addr = address
	}
	return a
}
