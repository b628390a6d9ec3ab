// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// On a bridge, pods are neighbours: they reach each other by more ways than
// their addresses.
func TestNeighboursAreNoFriends(t *testing.T) {
	s := tellAlone(t, lab.Options{Network: "bridge"}, "mesh")
	p := s.prey()
	t.Run("link-local address", func(t *testing.T) { sub := *p; sub.story = s.sub(t); sub.byLinkLocal() })
	t.Run("TCP by hand", func(t *testing.T) { sub := *p; sub.story = s.sub(t); sub.byHand() })
}

// sub is the story as a subtest's.
func (s *story) sub(t *testing.T) *story {
	sub := *s
	sub.T, sub.ctx = t, t.Context()
	return &sub
}

// A link-local address is the pod's too, and no plugin tells ztunnel about it.
func (p *prey) byLinkLocal() {
	to := netip.AddrPortFrom(p.linkLocal(p.near), 8080)
	for _, from := range []*lab.Pod{p.attacker, p.plain} {
		if err := p.attempt(from.Place, agent.Socket{Network: "tcp6", Device: "eth0"}, to, secret); err == nil {
			p.Errorf("%v came through to %v", from, to)
		}
	}
	p.onlyAs(p.story)
}

func (s *story) linkLocal(p *lab.Pod) netip.Addr {
	s.Helper()
	text, err := p.Run(s.ctx, "cat", "/proc/self/net/if_inet6")
	s.must(err)
	for line := range strings.Lines(text) {
		fields := strings.Fields(line) // address index prefix scope flags device
		if len(fields) == 6 && fields[3] == "20" && fields[5] == "eth0" {
			raw, err := hex.DecodeString(fields[0])
			s.must(err)
			addr, _ := netip.AddrFromSlice(raw)
			return addr
		}
	}
	s.Fatalf("%v has no link-local address: %s", p, text)
	return netip.Addr{}
}

// A pod with CAP_NET_RAW needs no connect(): it may speak TCP by itself. It can
// also take an address that nobody has, so that its own kernel does not reset
// what it never opened.
func (p *prey) byHand() {
	s := p.story
	seen := s.serve(p.far.Place, agent.Echo, 9090)
	s.overBoth(func(s *story, network string) {
		ghost, gateway := netip.MustParseAddr("10.77.1.250"), s.one.PodCIDR4.Addr().Next()
		if network == "tcp6" {
			ghost, gateway = netip.MustParseAddr("fd77:1::beef"), s.one.PodCIDR6.Addr().Next()
		}
		h, err := newHand(p.attacker, ghost)
		s.must(err)
		defer unix.Close(h.fd)
		s.must(h.resolve(gateway))
		for i, peer := range []netip.AddrPort{p.far.At(network, 8080), p.far.At(network, 9090)} {
			from := netip.AddrPortFrom(ghost, uint16(40000+i))
			if echo, err := h.send(from, peer, []byte(secret)); !errors.Is(err, errReset) {
				s.Errorf("to %v by hand: %q, %v; want a reset", peer, echo, err)
			}
			s.record(s.two, "direction", "inbound", "src.addr", from.String(), "dst.addr", peer.String(), "path", "passthrough", "result", "denied")
		}
		p.onlyAs(s)
		s.reached(p.attacker.Place, network, p.far, 8080)
	})
	if served, err := seen.Served(s.ctx); err != nil || len(served) > 0 {
		s.Errorf("the app was given %v, %v", served, err)
	}
	// The twin: where plaintext is allowed, this is how it would have gone.
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "PERMISSIVE"))
	h, err := newHand(p.attacker, netip.MustParseAddr("10.77.1.251"))
	s.must(err)
	defer unix.Close(h.fd)
	s.must(h.resolve(s.one.PodCIDR4.Addr().Next()))
	echo, err := h.send(netip.MustParseAddrPort("10.77.1.251:40000"), p.far.At("tcp4", 8080), []byte(secret))
	if err != nil || !bytes.Equal(echo, []byte(secret)) {
		s.Errorf("under PERMISSIVE, by hand: %q, %v", echo, err)
	}
}

// hand speaks Ethernet in a pod.
type hand struct {
	fd       int
	self, gw net.HardwareAddr
	ip       netip.Addr
}

func newHand(p *lab.Pod, ip netip.Addr) (h *hand, err error) {
	h = &hand{ip: ip}
	return h, env.InNetns(p.Netns, func() error {
		eth0, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		h.self = eth0.Attrs().HardwareAddr
		all := binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, unix.ETH_P_ALL))
		h.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(all))
		if err != nil {
			return fmt.Errorf("packet socket: %w", err)
		}
		limit := unix.NsecToTimeval(int64(100 * time.Millisecond))
		return errors.Join(
			unix.SetsockoptTimeval(h.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit),
			unix.Bind(h.fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: eth0.Attrs().Index}),
		)
	})
}

var errReset = errors.New("reset")

// resolve asks for the gateway's link-layer address as an owner of h.ip would,
// whereby the gateway learns h's.
func (h *hand) resolve(gateway netip.Addr) error {
	to, ask := net.HardwareAddr{255, 255, 255, 255, 255, 255}, h.arp(gateway)
	kind := uint16(unix.ETH_P_ARP)
	if h.ip.Is6() {
		low := gateway.As16()
		to, kind = net.HardwareAddr{0x33, 0x33, 0xff, low[13], low[14], low[15]}, unix.ETH_P_IPV6
		ask = h.solicitation(gateway)
	}
	h.gw = to
	return h.exchange(kind, ask, func(frame []byte) (bool, error) {
		body := frame[14:]
		answer := kind == unix.ETH_P_ARP && len(body) >= 28 && body[7] == 2 && bytes.Equal(body[14:18], gateway.AsSlice()) ||
			kind == unix.ETH_P_IPV6 && len(body) >= 64 && body[6] == unix.IPPROTO_ICMPV6 && body[40] == 136 && bytes.Equal(body[48:64], gateway.AsSlice())
		if answer {
			h.gw = bytes.Clone(frame[6:12])
		}
		return answer, nil
	})
}

// arp is RFC 826's request.
func (h *hand) arp(gateway netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, h.self...), h.ip.AsSlice()...)
	return append(append(b, 0, 0, 0, 0, 0, 0), gateway.AsSlice()...)
}

// solicitation is RFC 4861's, with the source's link-layer address.
func (h *hand) solicitation(gateway netip.Addr) []byte {
	b := append([]byte{135, 0, 0, 0, 0, 0, 0, 0}, gateway.AsSlice()...)
	b = append(append(b, 1, 1), h.self...)
	to := gateway.As16()
	group := netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: to[13], 14: to[14], 15: to[15]})
	binary.BigEndian.PutUint16(b[2:], checksum(h.ip, group, unix.IPPROTO_ICMPV6, b))
	return packet(h.ip, group, unix.IPPROTO_ICMPV6, b)
}

// send opens a TCP connection, sends text and returns what comes back first.
func (h *hand) send(from, to netip.AddrPort, text []byte) (echo []byte, err error) {
	const syn, rst, psh, ack = 2, 4, 8, 16
	kind := uint16(unix.ETH_P_IP)
	if h.ip.Is6() {
		kind = unix.ETH_P_IPV6
	}
	var next uint32 // that we expect of the peer
	answers := func(want byte) func([]byte) (bool, error) {
		return func(frame []byte) (bool, error) {
			segment, ok := tcpFrom(frame[14:], to, from)
			if !ok {
				return false, nil
			}
			flags, payload := segment[13], segment[segment[12]>>4*4:]
			if flags&rst != 0 {
				return false, errReset
			}
			if flags&want != want || want&psh != 0 && len(payload) == 0 {
				return false, nil
			}
			next, echo = binary.BigEndian.Uint32(segment[4:])+1, bytes.Clone(payload)
			return true, nil
		}
	}
	if err := h.exchange(kind, tcp(from, to, 1000, 0, syn, nil), answers(syn|ack)); err != nil {
		return nil, fmt.Errorf("handshake: %w", err)
	}
	if err := h.exchange(kind, tcp(from, to, 1001, next, ack|psh, text), answers(ack|psh)); err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return echo, nil
}

// exchange sends a packet, again and again, until done says that a frame is the
// answer.
func (h *hand) exchange(kind uint16, packet []byte, done func(frame []byte) (bool, error)) error {
	out := append(append(bytes.Clone(h.gw), h.self...), byte(kind>>8), byte(kind))
	out = append(out, packet...)
	frame := make([]byte, 4096)
	for range 30 {
		if _, err := unix.Write(h.fd, out); err != nil {
			return fmt.Errorf("send a frame: %w", err)
		}
		for end := time.Now().Add(200 * time.Millisecond); time.Now().Before(end); {
			n, err := unix.Read(h.fd, frame)
			if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil {
				return fmt.Errorf("read a frame: %w", err)
			}
			if n < 14 || strings.EqualFold(net.HardwareAddr(frame[6:12]).String(), h.self.String()) {
				continue
			}
			if ok, err := done(frame[:n]); ok || err != nil {
				return err
			}
		}
	}
	return errors.New("no answer")
}

// tcp is a segment in a packet.
func tcp(from, to netip.AddrPort, seq, ack uint32, flags byte, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from.Port())
	b = binary.BigEndian.AppendUint16(b, to.Port())
	b = binary.BigEndian.AppendUint32(b, seq)
	b = binary.BigEndian.AppendUint32(b, ack)
	b = append(b, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, payload...)
	binary.BigEndian.PutUint16(b[16:], checksum(from.Addr(), to.Addr(), unix.IPPROTO_TCP, b))
	return packet(from.Addr(), to.Addr(), unix.IPPROTO_TCP, b)
}

// tcpFrom returns the segment of a packet of that connection.
func tcpFrom(packet []byte, from, to netip.AddrPort) ([]byte, bool) {
	header := 20
	if from.Addr().Is6() {
		header = 40
	}
	src := header - 2*from.Addr().BitLen()/8 // the addresses end the header
	if len(packet) < header+20 || !bytes.Equal(packet[src:header], append(from.Addr().AsSlice(), to.Addr().AsSlice()...)) {
		return nil, false
	}
	total := int(binary.BigEndian.Uint16(packet[2:]))
	if from.Addr().Is6() {
		total = header + int(binary.BigEndian.Uint16(packet[4:]))
	}
	segment := packet[header:min(total, len(packet))]
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, from.Port()), to.Port())
	return segment, bytes.Equal(segment[:4], ports) && len(segment) >= int(segment[12]>>4*4)
}

// packet puts an IP header before a body.
func packet(from, to netip.Addr, proto byte, body []byte) []byte {
	if from.Is6() {
		b := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(body)))
		b = append(b, proto, 255)
		return append(append(append(b, from.AsSlice()...), to.AsSlice()...), body...)
	}
	b := binary.BigEndian.AppendUint16([]byte{0x45, 0}, uint16(20+len(body)))
	b = append(b, 0, 0, 0x40, 0, 64, proto, 0, 0)
	b = append(append(b, from.AsSlice()...), to.AsSlice()...)
	binary.BigEndian.PutUint16(b[10:], ^sum(0, b))
	return append(b, body...)
}

// checksum is that of TCP and ICMPv6, over a pseudo header.
func checksum(from, to netip.Addr, proto byte, body []byte) uint16 {
	head := append(append(from.AsSlice(), to.AsSlice()...), 0, proto)
	head = binary.BigEndian.AppendUint16(head, uint16(len(body)))
	return ^sum(sum(0, head), body)
}

// sum is RFC 1071's.
func sum(start uint16, b []byte) uint16 {
	total := uint32(start)
	for i := 0; i < len(b); i += 2 {
		total += uint32(b[i]) << 8
		if i+1 < len(b) {
			total += uint32(b[i+1])
		}
	}
	for total>>16 != 0 {
		total = total&0xffff + total>>16
	}
	return uint16(total)
}
