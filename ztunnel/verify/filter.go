// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Where a packet's addresses may stand, counted from its network header: behind the header
// itself, or behind those of an encapsulation (IPIP, GRE, VXLAN, Geneve with options).
const (
	deepest = 120 // bytes that an encapsulation puts in front
	even    = 2   // every encapsulation has an even length
)

// controlAt is where the payload of a UDP datagram over IPv4 without options begins.
const controlAt = 28

// Pair is the addresses of both ends, of one family. The packets between them are looked at.
type Pair [2]netip.Addr

// source is where an IP header has its source address.
func (p Pair) source() int {
	if p[0].Is4() {
		return 12
	}
	return 8
}

// length is that of an address.
func (p Pair) length() int { return p[0].BitLen() / 8 }

// last is the last four bytes of an address: what the kernel compares.
func last(a netip.Addr) uint32 {
	b := a.AsSlice()
	return binary.BigEndian.Uint32(b[len(b)-4:])
}

// What the kernel's programs for packets are made of.
const (
	load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	octet = unix.BPF_LD | unix.BPF_B | unix.BPF_ABS
	and   = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	is    = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	ret   = unix.BPF_RET | unix.BPF_K
	all   = 1 << 18
)

// filter is a program for packets that begin with their network header. It passes those
// that hold both addresses side by side, in either order, at a place where an IP header may
// have them, segments of TCP that begin with the mark, whatever their addresses are, and
// the control. A load behind the end of a packet ends the program: such a packet does not
// pass.
func (p Pair) filter(control, mark uint32) []unix.SockFilter {
	one, other, gap := last(p[0]), last(p[1]), p.length()
	program := p.begins(mark)
	program = append(program, unix.SockFilter{Code: load, K: controlAt}, unix.SockFilter{Code: is, Jf: 1, K: control}, unix.SockFilter{Code: ret, K: all})
	first := p.source() + gap - 4
	for at := first; at <= first+deepest; at += even {
		here, next := uint32(at), uint32(at+gap)
		program = append(program,
			unix.SockFilter{Code: load, K: here},
			unix.SockFilter{Code: is, Jf: 2, K: one},
			unix.SockFilter{Code: load, K: next},
			unix.SockFilter{Code: is, Jt: 3, Jf: 4, K: other},
			unix.SockFilter{Code: is, Jf: 3, K: other},
			unix.SockFilter{Code: load, K: next},
			unix.SockFilter{Code: is, Jf: 1, K: one},
			unix.SockFilter{Code: ret, K: all},
		)
	}
	return append(program, unix.SockFilter{Code: ret})
}

// begins passes a segment of TCP whose payload begins with four bytes: between an app and
// ztunnel, and behind whatever translates addresses, it has others than both ends'.
func (p Pair) begins(mark uint32) []unix.SockFilter {
	version, protocol, header := uint32(0x40), uint32(9), unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_B | unix.BPF_MSH}
	if !p[0].Is4() {
		version, protocol, header = 0x60, 6, unix.SockFilter{Code: unix.BPF_LDX | unix.BPF_W | unix.BPF_IMM, K: 40}
	}
	return []unix.SockFilter{
		{Code: octet, K: 0},
		{Code: and, K: 0xf0},
		{Code: is, Jf: 14, K: version},
		{Code: octet, K: protocol},
		{Code: is, Jf: 12, K: unix.IPPROTO_TCP},
		header, // its length is in X
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_IND, K: 12}, // of TCP's header: its length in words
		{Code: and, K: 0xf0},
		{Code: unix.BPF_ALU | unix.BPF_RSH | unix.BPF_K, K: 2},
		{Code: unix.BPF_ALU | unix.BPF_ADD | unix.BPF_X},
		{Code: unix.BPF_MISC | unix.BPF_TAX}, // where the payload begins
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_LEN},
		{Code: unix.BPF_ALU | unix.BPF_SUB | unix.BPF_X},
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, Jf: 3, K: 4},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_IND},
		{Code: is, Jf: 1, K: mark},
		{Code: ret, K: all},
	}
}

// segment is a packet between both ends.
type segment struct {
	from, to     netip.AddrPort // port 0 of what is not TCP
	encapsulated bool
}

// find reads the IP packet between both ends that data is, or has in it.
func (p Pair) find(data []byte) (s segment, found bool) {
	for at := 0; at <= deepest; at += even {
		begin, gap := at+p.source(), p.length()
		if begin+2*gap > len(data) {
			return s, false
		}
		from, _ := netip.AddrFromSlice(data[begin : begin+gap])
		to, _ := netip.AddrFromSlice(data[begin+gap : begin+2*gap])
		if from == p[0] && to == p[1] || from == p[1] && to == p[0] {
			s = p.read(data[at:], from, to)
			s.encapsulated = at > 0
			return s, true
		}
	}
	return s, false
}

// read is an IP packet from one address to another.
func (p Pair) read(packet []byte, from, to netip.Addr) segment {
	s := segment{from: netip.AddrPortFrom(from, 0), to: netip.AddrPortFrom(to, 0)}
	if proto, above := p.above(packet); proto == unix.IPPROTO_TCP && len(above) >= 4 {
		s.from = netip.AddrPortFrom(from, binary.BigEndian.Uint16(above))
		s.to = netip.AddrPortFrom(to, binary.BigEndian.Uint16(above[2:]))
	}
	return s
}

// other reads an IP packet that is not between both ends, as far as it is of their family.
func (p Pair) other(data []byte) segment {
	begin, gap := p.source(), p.length()
	if begin+2*gap > len(data) {
		return segment{}
	}
	from, _ := netip.AddrFromSlice(data[begin : begin+gap])
	to, _ := netip.AddrFromSlice(data[begin+gap : begin+2*gap])
	return p.read(data, from, to)
}

// above is what an IP packet carries. Of IPv6 with extension headers it says the first of
// these.
func (p Pair) above(packet []byte) (proto byte, rest []byte) {
	if p[0].Is4() {
		return packet[9], packet[min(int(packet[0]&0xf)*4, len(packet)):]
	}
	return packet[6], packet[40:]
}

// isControl reports whether data is the control's datagram.
func isControl(data, control []byte) bool {
	return len(data) >= controlAt && bytes.HasPrefix(data[controlAt:], control)
}
