// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// carried connects from the pod by c and accepts ztunnel's end. Both stay open
// until the test ends.
func (p *testPodNS) carried(c client, six bool, to netip.AddrPort) (fd int, conn *net.TCPConn, err error) {
	p.t.Helper()
	err = p.ns.Do(func() (err error) {
		fd, err = c(afOf(six), sockaddr(to))
		return err
	})
	if err != nil {
		return -1, nil, err
	}
	p.t.Cleanup(func() { unix.Close(fd) })
	ln := p.outbound(six)
	ln.SetDeadline(time.Now().Add(10 * time.Second))
	if conn, err = ln.AcceptTCP(); err != nil {
		return fd, nil, err
	}
	p.t.Cleanup(func() { conn.Close() })
	if dst, err := p.d.OriginalDst(conn); err != nil || dst != to {
		return fd, conn, fmt.Errorf("original destination %v, %w; want %v", dst, err, to)
	}
	return fd, conn, nil
}

// servers are n destinations that only steering knows.
func servers(n int, six bool) (found []netip.AddrPort) {
	for i := range n {
		addr := netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)})
		if six {
			addr = netip.MustParseAddr(fmt.Sprintf("2001:db8:7::%x", 10+i))
		}
		found = append(found, netip.AddrPortFrom(addr, 80))
	}
	return found
}

func afOf(six bool) int {
	if six {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func TestPortsRunOutForEachDestinationByItself(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(family(six), func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			w.in(p.ns, func() error { return writeSysctl("net/ipv4/ip_local_port_range", "40000 40099") })
			for i, to := range servers(4, six) {
				for n := range 60 {
					if _, _, err := p.carried(plainClient(nil), six, to); err != nil {
						t.Fatalf("connection %d to server %d: %v", n, i, err)
					}
				}
			}
		})
	}
}

// The app closes first, so that each connection leaves its port in TIME_WAIT.
func TestManyShortConnectionsDoNotRunOutOfPorts(t *testing.T) {
	for _, six := range []bool{false, true} {
		t.Run(family(six), func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			w.in(p.ns, func() error { return writeSysctl("net/ipv4/ip_local_port_range", "40000 40499") })
			ln := p.outbound(six)
			far := servers(4, six)
			seen := make(map[netip.AddrPort]int)
			for n := range 1600 { // 400 of each, of 500 ports, half of which connect() prefers
				to := far[n%len(far)]
				p.in(p.ns, func() error {
					fd, err := plainClient(nil)(afOf(six), sockaddr(to))
					if err != nil {
						return fmt.Errorf("connection %d: %w", n, err)
					}
					conn, err := ln.AcceptTCP()
					if err != nil {
						return err
					}
					dst, err := w.d.OriginalDst(conn)
					seen[dst]++
					unix.Close(fd)
					conn.Read(make([]byte, 1)) // until the app has closed
					return errors.Join(err, conn.Close())
				})
			}
			for _, to := range far {
				if seen[to] != 400 {
					t.Errorf("%d connections to %v, want 400", seen[to], to)
				}
			}
		})
	}
}

// As active FTP does.
func TestOneBoundPortServesSeveralDestinations(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, six := range []bool{false, true} {
		bound := plainClient(bindTo(p.addr(six), 2020))
		for _, to := range servers(3, six) {
			if _, _, err := p.carried(bound, six, to); err != nil {
				t.Error(err)
			}
		}
		// The refused twin: the same port to the same destination.
		w.in(p.ns, func() error {
			if _, err := bound(afOf(six), sockaddr(servers(1, six)[0])); err != unix.EADDRNOTAVAIL {
				t.Errorf("a second connection from the port: %v, want EADDRNOTAVAIL", err)
			}
			return nil
		})
	}
}

func TestDestinationsSeldomShareAnAddress(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	used := make(map[netip.Addr]bool)
	const n = 2000
	for i := range n {
		to := netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, byte(113 + i/250), byte(i % 250)}), 443)
		p.in(p.ns, func() error {
			fd, err := plainClient(nil)(unix.AF_INET, sockaddr(to))
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			conn, err := p.s.Listeners.Outbound4.AcceptTCP()
			if err != nil {
				return err
			}
			defer conn.Close()
			conn.SetLinger(0)
			if dst, err := w.d.OriginalDst(conn); err != nil || dst != to {
				t.Errorf("original destination %v, %v; want %v", dst, err, to)
			}
			used[conn.LocalAddr().(*net.TCPAddr).AddrPort().Addr()] = true
			return nil
		})
	}
	for addr := range used {
		if !defaultStandIns[0].Contains(addr) {
			t.Fatalf("%v is no stand-in", addr)
		}
	}
	if len(used) < n-20 { // a random function of 24 bits: one in eight runs has a collision
		t.Errorf("%d destinations have %d addresses", n, len(used))
	}
}

// A listener's own stand-in must not lead to it from outside, nor one that is in
// use by the pod.
func TestStandInsAreNotReachedFromTheWire(t *testing.T) {
	w := newWorld(t)
	p := w.enrolled()
	for _, six := range []bool{false, true} {
		// The pod has a connection to this one: whoever else sends there must
		// not meet it.
		_, conn, err := p.carried(plainClient(nil), six, servers(1, six)[0])
		if err != nil {
			t.Fatal(err)
		}
		inUse, own := addrPort(conn.LocalAddr()), addrPort(p.outbound(six).Addr())
		w.in(w.ns, func() error {
			return addRoute1(p.device, defaultStandIns[index(six)].Addr(), defaultStandIns[index(six)].Bits(), p.addr(six))
		})
		for _, to := range []netip.AddrPort{inUse, own, netip.AddrPortFrom(nth(defaultStandIns[index(six)], 77), 8080)} {
			wantRefused(t, w.ns, to, nil)
		}
		before := w.d.Stats()["outbound_refused_stand_in"]
		wantRefused(t, w.ns, inUse, nil)
		if w.d.Stats()["outbound_refused_stand_in"] == before {
			t.Error("the refusal is not counted")
		}
	}
}

func addrPort(a net.Addr) netip.AddrPort {
	at := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
