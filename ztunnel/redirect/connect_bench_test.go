// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkConnect times connect(2) alone, in a pod, to a listener that is in
// the same pod each time. Compare the p50 of one run.
func BenchmarkConnect(b *testing.B) {
	b.Run("plain", func(b *testing.B) {
		w := newWorld(b)
		if err := w.d.Unpin(); err != nil {
			b.Fatal(err)
		}
		p := w.pod()
		benchConnect(b, p, p.listen(netip.AddrPortFrom(p.v4, 61000)), netip.AddrPortFrom(p.v4, 61000))
	})
	b.Run("not enrolled", func(b *testing.B) {
		w := newWorld(b)
		w.enrolled()
		p := w.pod()
		benchConnect(b, p, p.listen(netip.AddrPortFrom(p.v4, 61000)), netip.AddrPortFrom(p.v4, 61000))
	})
	for _, six := range []bool{false, true} {
		b.Run("steered/"+family(six), func(b *testing.B) {
			p := newWorld(b).enrolled()
			benchConnect(b, p, p.outbound(six), farOf(six, 0))
		})
		// Among connections that are open, to one destination or to many: each
		// has ports of its own.
		for _, many := range []int{1, 100} {
			b.Run(fmt.Sprintf("steered/%s/8000 open to %d", family(six), many), func(b *testing.B) {
				p := newWorld(b).enrolled()
				holdOpen(b, p, six, 8000, many)
				benchConnect(b, p, p.outbound(six), farOf(six, 0))
			})
		}
	}
}

// farOf is the nth of many destinations that only steering knows.
func farOf(six bool, n int) netip.AddrPort {
	if six {
		return netip.AddrPortFrom(far6, uint16(4242+n))
	}
	return netip.AddrPortFrom(far4, uint16(4242+n))
}

// holdOpen opens connections that stay open until the benchmark ends.
func holdOpen(b *testing.B, p *testPodNS, six bool, connections, destinations int) {
	b.Helper()
	p.in(p.ns, func() error {
		for n := range connections {
			fd, err := plainClient(nil)(afOf(six), sockaddr(farOf(six, n%destinations)))
			if err != nil {
				return err
			}
			b.Cleanup(func() { unix.Close(fd) })
			conn, err := p.outbound(six).AcceptTCP()
			if err != nil {
				return err
			}
			b.Cleanup(func() { conn.Close() })
		}
		return nil
	})
}

func benchConnect(b *testing.B, p *testPodNS, ln *net.TCPListener, to netip.AddrPort) {
	b.Helper()
	var times []time.Duration
	p.in(p.ns, func() error {
		sa := sockaddr(to)
		for b.Loop() {
			fd, err := unix.Socket(afOf(to.Addr().Is6()), unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			start := time.Now()
			err = unix.Connect(fd, sa)
			times = append(times, time.Since(start))
			if err != nil {
				unix.Close(fd)
				return err
			}
			conn, err := ln.AcceptTCP()
			if err != nil {
				unix.Close(fd)
				return err
			}
			conn.SetLinger(0) // no TIME_WAIT: ports would run out
			conn.Close()
			unix.Close(fd)
		}
		return nil
	})
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Nanoseconds()), "p50-ns")
}
