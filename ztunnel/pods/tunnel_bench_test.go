// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// inProcess is a CA without a network.
type inProcess struct{ *ca.CA }

func (i inProcess) Issue(_ context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (certs.Issued, error) {
	chain, err := i.Sign(csr, id, ttl)
	return certs.Issued{Chain: chain, Roots: i.Roots()}, err
}

// BenchmarkTunnel opens a tunnel with a stream in it and closes both, with the
// credentials of a Store on each side. cpu-µs is of both ends and the kernel.
func BenchmarkTunnel(b *testing.B) {
	authority, err := ca.Open(b.TempDir(), ca.Options{TrustDomain: domain})
	if err != nil {
		b.Fatal(err)
	}
	web := spiffeid.RequireFromPath(domain, "/ns/shop/sa/web")
	store := func() *certs.Store {
		s := certs.New(certs.Config{TrustDomain: domain, Issuer: inProcess{authority}, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
		done := make(chan error, 1)
		go func() { done <- s.Run(b.Context()) }()
		b.Cleanup(func() { <-done })
		b.Cleanup(s.Hold(web))
		return s
	}
	near, far := store(), store()

	socket, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	ln := hbone.NewListener(socket, hbone.ListenerConfig{Credential: func(ctx context.Context) (hbone.Credential, error) {
		config, until, err := far.Server(ctx, web)
		return hbone.Credential{Config: config, Until: until}, err
	}})
	go ln.Run(b.Context())
	b.Cleanup(ln.Close)
	to := socket.Addr().(*net.TCPAddr).AddrPort()
	pool := hbone.NewPool(hbone.PoolConfig{
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			return net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
		},
		Credential: func(ctx context.Context, key hbone.Key) (hbone.Credential, error) {
			config, until, err := near.Client(ctx, web, key.Dst)
			return hbone.Credential{Config: config, Until: until}, err
		},
	})
	b.Cleanup(pool.Close)
	go func() {
		for {
			s, err := ln.Accept(b.Context())
			if err != nil {
				return
			}
			s.Reject(503)
		}
	}()

	key := hbone.Key{Dst: web, Addr: to}
	open := func() {
		if s, err := pool.Open(b.Context(), key, hbone.Target{Authority: to}); err == nil {
			s.Reset()
			b.Fatal("opened")
		}
		pool.Retire(hbone.Rotated)
	}
	open()
	b.ReportAllocs()
	before := cpuTime(b)
	for b.Loop() {
		open()
	}
	b.ReportMetric(float64((cpuTime(b)-before).Microseconds())/float64(b.N), "cpu-µs/op")
	if n := ln.Stats().Handshakes; n < uint64(b.N) {
		b.Fatalf("%d handshakes in %d rounds", n, b.N)
	}
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
