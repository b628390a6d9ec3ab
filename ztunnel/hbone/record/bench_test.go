// SPDX-License-Identifier: Apache-2.0

package record

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"sync"
	"syscall"
	"testing"
	"time"
)

// processTime is the CPU that this process, both ends of all connections, has used.
func processTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peer is one way to send bytes in writes of a size, and to receive them.
type peer struct {
	name    string
	send    func(p []byte) error
	receive func() (int, error)
	cpu     time.Duration
	wall    time.Duration
}

// BenchmarkRecords moves 16 MiB at a time by crypto/tls, by us, and by a bare
// socket, in turns, so that all see the same minutes of the machine.
func BenchmarkRecords(b *testing.B) {
	for _, size := range []int{64, 1 << 10, 16 << 10, 64 << 10, 256 << 10} {
		b.Run(fmt.Sprintf("write=%d", size), func(b *testing.B) {
			peers := []*peer{cryptoTLS(b), ours(b), bare(b)}
			p := fill(size)
			chunk := max(16<<20, 1) / size
			chunk = min(chunk, 50000)
			for b.Loop() {
				for _, peer := range peers {
					peer.move(b, p, chunk)
				}
			}
			moved := float64(b.N) * float64(chunk*size)
			for _, peer := range peers {
				b.ReportMetric(float64(peer.cpu.Nanoseconds())/moved*1000, peer.name+"-ps/B")
				b.ReportMetric(moved/peer.wall.Seconds()/1e6, peer.name+"-MB/s")
			}
			b.ReportMetric(float64(peers[1].cpu)/float64(peers[0].cpu), "own/tls")
		})
	}
}

func (p *peer) move(b *testing.B, data []byte, times int) {
	cpu, start := processTime(b), time.Now()
	var sending sync.WaitGroup
	sending.Go(func() {
		for range times {
			if err := p.send(data); err != nil {
				b.Error(err)
				return
			}
		}
	})
	for left := times * len(data); left > 0; {
		n, err := p.receive()
		if err != nil {
			b.Fatal(err)
		}
		left -= n
	}
	sending.Wait()
	p.cpu += processTime(b) - cpu
	p.wall += time.Since(start)
}

func cryptoTLS(b *testing.B) *peer {
	near, far := sockets(b)
	near.SetDeadline(time.Time{})
	far.SetDeadline(time.Time{})
	client, server := tls.Client(near, config()), tls.Server(far, config())
	var shaking sync.WaitGroup
	shaking.Go(func() { server.Handshake() })
	if err := client.Handshake(); err != nil {
		b.Fatal(err)
	}
	shaking.Wait()
	buf := make([]byte, 256<<10)
	return &peer{
		name:    "tls",
		send:    func(p []byte) error { _, err := client.Write(p); return err },
		receive: func() (int, error) { return server.Read(buf) },
	}
}

func ours(b *testing.B) *peer {
	client, server := pair(b)
	client.SetDeadline(time.Time{})
	server.SetDeadline(time.Time{})
	return &peer{
		name: "own",
		send: func(p []byte) error { _, err := client.Write(p); return err },
		receive: func() (int, error) {
			segments, err := server.Receive()
			n := 0
			for _, s := range segments {
				n += len(s)
			}
			return n, err
		},
	}
}

func bare(b *testing.B) *peer {
	near, far := sockets(b)
	near.SetDeadline(time.Time{})
	far.SetDeadline(time.Time{})
	buf := make([]byte, 256<<10)
	return &peer{
		name:    "tcp",
		send:    func(p []byte) error { _, err := near.Write(p); return err },
		receive: func() (int, error) { return far.Read(buf) },
	}
}

// BenchmarkRoundTrip is a small message there and back.
func BenchmarkRoundTrip(b *testing.B) {
	client, server := pair(b)
	var echoing sync.WaitGroup
	echoing.Go(func() {
		for {
			segments, err := server.Receive()
			if err != nil {
				return
			}
			if _, err := server.Write(segments[0]); err != nil {
				return
			}
		}
	})
	client.SetDeadline(time.Time{})
	server.SetDeadline(time.Time{})
	p := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(p); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(client, p); err != nil {
			b.Fatal(err)
		}
	}
	client.Close()
	echoing.Wait()
}

// BenchmarkHandshake is both ends of one, by us and by crypto/tls.
func BenchmarkHandshake(b *testing.B) {
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		cfg := config()
		cfg.SessionTicketsDisabled = true
		for b.Loop() {
			near, far := sockets(b)
			var shaking sync.WaitGroup
			shaking.Go(func() { Server(context.Background(), far, cfg) })
			if _, _, err := Client(context.Background(), near, cfg); err != nil {
				b.Fatal(err)
			}
			shaking.Wait()
			near.Close()
			far.Close()
		}
	})
	b.Run("tls", func(b *testing.B) {
		b.ReportAllocs()
		cfg := config()
		cfg.SessionTicketsDisabled = true
		for b.Loop() {
			near, far := sockets(b)
			var shaking sync.WaitGroup
			shaking.Go(func() { tls.Server(far, cfg).Handshake() })
			if err := tls.Client(near, cfg).Handshake(); err != nil {
				b.Fatal(err)
			}
			shaking.Wait()
			near.Close()
			far.Close()
		}
	})
}
