// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"net/netip"
)

// packet is an IP packet with TCP in it, as a TUN device gives it: IPv4 without
// options, or IPv6 without extension headers. Others have no flow.
type packet []byte

const protoTCP = 6

// tcp is where the TCP header begins, 0 if there is none.
func (p packet) tcp() int {
	switch {
	case len(p) >= 40 && p[0] == 0x45 && p[9] == protoTCP:
		return 20
	case len(p) >= 60 && p[0]>>4 == 6 && p[6] == protoTCP:
		return 40
	}
	return 0
}

// flow is a TCP connection, whichever way its packet goes: the lesser end first.
type flow [2]netip.AddrPort

func (p packet) flow() (f flow, ok bool) {
	t := p.tcp()
	if t == 0 {
		return f, false
	}
	src, dst := p.ends()
	f[0] = netip.AddrPortFrom(src, binary.BigEndian.Uint16(p[t:]))
	f[1] = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(p[t+2:]))
	if f[0].Compare(f[1]) > 0 {
		f[0], f[1] = f[1], f[0]
	}
	return f, true
}

func (p packet) ends() (src, dst netip.Addr) {
	if p.tcp() == 20 {
		return netip.AddrFrom4([4]byte(p[12:])), netip.AddrFrom4([4]byte(p[16:]))
	}
	return netip.AddrFrom16([16]byte(p[8:])), netip.AddrFrom16([16]byte(p[24:]))
}

const (
	flagSYN = 0x02
	flagRST = 0x04
	flagACK = 0x10
)

func (p packet) has(flag byte) bool { return p[p.tcp()+13]&flag != 0 }

// refusal is the RST that a machine which knows nothing of the connection
// answers p with. Its sequence number is the one that p's sender expects.
func (p packet) refusal() packet {
	t := p.tcp()
	r := make(packet, t+20)
	copy(r, p[:t])
	if t == 20 {
		binary.BigEndian.PutUint16(r[2:], uint16(len(r)))
		copy(r[12:16], p[16:20])
		copy(r[16:20], p[12:16])
		binary.BigEndian.PutUint16(r[10:], 0)
		binary.BigEndian.PutUint16(r[10:], fold(sum(0, r[:20])))
	} else {
		binary.BigEndian.PutUint16(r[4:], 20)
		copy(r[8:24], p[24:40])
		copy(r[24:40], p[8:24])
	}
	h := r[t:]
	copy(h, p[t+2:t+4])
	copy(h[2:], p[t:t+2])
	copy(h[4:], p[t+8:t+12])
	h[12], h[13] = 5<<4, flagRST
	addresses := r[12:20]
	if t == 40 {
		addresses = r[8:40]
	}
	binary.BigEndian.PutUint16(h[16:], fold(sum(sum(protoTCP+20, addresses), h)))
	return r
}

// sum and fold are the Internet checksum (RFC 1071).
func sum(start uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		start += uint32(b[0])<<8 | uint32(b[1])
	}
	return start
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}
