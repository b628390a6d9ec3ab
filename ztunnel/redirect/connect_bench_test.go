// SPDX-License-Identifier: Apache-2.0

package redirect

import (
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
	far := netip.AddrPortFrom(far4, 4242)
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
	b.Run("steered", func(b *testing.B) {
		p := newWorld(b).enrolled()
		benchConnect(b, p, p.s.Listeners.Outbound4, far)
	})
}

func benchConnect(b *testing.B, p *testPodNS, ln *net.TCPListener, to netip.AddrPort) {
	b.Helper()
	var times []time.Duration
	p.in(p.ns, func() error {
		sa := sockaddr(to)
		for b.Loop() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
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
