// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// blockOf is how many connections one pod carries in its turn.
const blockOf = 50

// What connections cost a pod that has a table of edges and a stream of events, as all have,
// while nobody listens and while somebody does: by turns with a pod without both, so that
// what else the machine does is the same for all. The ratios are medians of processor time
// and of time by the clock.
func BenchmarkConnectionsWhileNobodyListens(b *testing.B) {
	app := toEchoes(b)
	heard := new(events.Stream)
	listener, err := heard.Listen(events.Filter{})
	if err != nil {
		b.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			if _, err := listener.Next(b.Context()); err != nil {
				return
			}
		}
	}()
	pods := []netip.AddrPort{servePod(b, app, nil, nil), servePod(b, app, new(edges.Table), new(events.Stream)), servePod(b, app, new(edges.Table), heard)}
	var cpu, wall [3][]float64
	for b.Loop() {
		for i, pod := range pods {
			began, used := time.Now(), processorTime(b)
			for range blockOf {
				connectOnce(b, pod)
			}
			cpu[i] = append(cpu[i], (processorTime(b) - used).Seconds())
			wall[i] = append(wall[i], time.Since(began).Seconds())
		}
	}
	b.ReportMetric(blockOf/median(wall[1]), "connections/s")
	b.ReportMetric(ratio(cpu[1], cpu[0]), "unheard-cpu")
	b.ReportMetric(ratio(wall[1], wall[0]), "unheard-time")
	b.ReportMetric(ratio(cpu[2], cpu[0]), "heard-cpu")
	b.ReportMetric(ratio(wall[2], wall[0]), "heard-time")
}

// ratio is the median of those of blocks that followed one another.
func ratio(of, to []float64) float64 {
	all := make([]float64, len(of))
	for i := range of {
		all[i] = of[i] / to[i]
	}
	return median(all)
}

func median(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }

func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func connectOnce(b *testing.B, to netip.AddrPort) {
	conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		b.Fatal(err)
	}
	conn.CloseWrite()
	if answer, err := io.ReadAll(conn); err != nil || string(answer) != "hello" {
		b.Fatalf("%q, %v", answer, err)
	}
}

// toEchoes is an app that says what it is told, until both are done.
func toEchoes(b *testing.B) netip.AddrPort {
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(dbAddr, 0)))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				io.Copy(conn, conn)
				conn.Close()
			}()
		}
	}()
	return socket.AddrPort(ln.Addr())
}

// servePod carries plaintext to an app until the benchmark ends.
func servePod(b *testing.B, app netip.AddrPort, table *edges.Table, stream *events.Stream) netip.AddrPort {
	registry := registryOf(meshOf(1, 1))
	p := &Pod{
		Self:     func() (workload.Workload, bool) { return registry.ByUID("uid-db") },
		Registry: registry, Policy: policy.NewSet(), Peers: NewPeers(registry), Metrics: metrics.New(metrics.Config{}), Edges: table, Events: stream,
		IsInner: func(*net.TCPConn) bool { return false }, IsOwn: func(netip.Addr) bool { return false },
		Log: slog.New(slog.NewJSONHandler(io.Discard, nil)),
		Inner: func(context.Context, netip.AddrPort, netip.AddrPort) (*net.TCPConn, error) {
			return net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(app))
		},
	}
	p.Peers.follow(time.Now().Add(-time.Hour)) // nobody is a newcomer
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(dbAddr, 0)))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Passthrough{p}.Serve(ctx, ln) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return socket.AddrPort(ln.Addr())
}
