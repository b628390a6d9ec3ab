// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// packet is what a capture keeps of one IP packet.
type packet struct {
	src, dst netip.AddrPort // port 0 if not TCP or UDP
	proto    byte
	flags    byte // TCP
	seq      uint32
	payload  []byte // above TCP or UDP, or above IP
}

// TCP flags.
const (
	fin = 1 << iota
	syn
	rst
	_
	ack
)

func parse(data []byte) (packet, bool) {
	if len(data) < 20 {
		return packet{}, false
	}
	switch data[0] >> 4 {
	case 4:
		return parse4(data)
	case 6:
		return parse6(data)
	}
	return packet{}, false
}

func parse4(data []byte) (packet, bool) {
	header, total := int(data[0]&0xf)*4, int(binary.BigEndian.Uint16(data[2:]))
	if header < 20 || header > len(data) {
		return packet{}, false
	}
	// A padded frame is longer than its packet; total is 0 in a GSO packet of 64 KiB or more.
	if total >= header && total <= len(data) {
		data = data[:total]
	}
	src, dst := netip.AddrFrom4([4]byte(data[12:16])), netip.AddrFrom4([4]byte(data[16:20]))
	return parseTransport(data[9], src, dst, data[header:]), true
}

func parse6(data []byte) (packet, bool) {
	if len(data) < 40 {
		return packet{}, false
	}
	total := 40 + int(binary.BigEndian.Uint16(data[4:]))
	if total > 40 && total <= len(data) {
		data = data[:total]
	}
	src, dst := netip.AddrFrom16([16]byte(data[8:24])), netip.AddrFrom16([16]byte(data[24:40]))
	next, rest := data[6], data[40:]
	for next == unix.IPPROTO_HOPOPTS || next == unix.IPPROTO_DSTOPTS || next == unix.IPPROTO_ROUTING {
		if len(rest) < 8 || len(rest) < int(rest[1])*8+8 {
			return packet{}, false
		}
		next, rest = rest[0], rest[int(rest[1])*8+8:]
	}
	return parseTransport(next, src, dst, rest), true
}

func parseTransport(proto byte, src, dst netip.Addr, data []byte) packet {
	p := packet{src: netip.AddrPortFrom(src, 0), dst: netip.AddrPortFrom(dst, 0), proto: proto, payload: data}
	header := 8
	switch {
	case proto == unix.IPPROTO_TCP && len(data) >= 20:
		header = int(data[12]>>4) * 4
		p.seq, p.flags = binary.BigEndian.Uint32(data[4:]), data[13]
	case proto == unix.IPPROTO_UDP && len(data) >= 8:
	default:
		return p
	}
	p.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(data))
	p.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(data[2:]))
	p.payload = data[min(header, len(data)):]
	return p
}
