// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// A pod under pressure gives up the idle tunnels of a peer that has several before its
// own, and a peer's few only when nothing else is idle.
func TestACarrierYieldsTheTunnelsOfAPeerWithSeveralFirst(t *testing.T) {
	root := certstest.NewCA()
	web, db := spiffeid.RequireFromPath(domain, "/ns/shop/sa/web"), spiffeid.RequireFromPath(domain, "/ns/shop/sa/db")
	credential := func(id spiffeid.ID) hbone.Credential {
		return hbone.Credential{Config: certstest.Mutual(root, root.Leaf(id), func(spiffeid.ID) error { return nil })}
	}
	listen := func() *hbone.Listener {
		socket, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		ln := hbone.NewListener(socket, hbone.ListenerConfig{Credential: func(context.Context) (hbone.Credential, error) { return credential(db), nil }})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			ln.Run(ctx)
			close(done)
		}()
		go func() {
			for {
				s, err := ln.Accept(ctx)
				if err != nil {
					return
				}
				s.Reject(503)
			}
		}()
		t.Cleanup(func() { cancel(); <-done })
		return ln
	}
	pool := func() *hbone.Pool {
		p := hbone.NewPool(hbone.PoolConfig{
			Dial: func(_ context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
				return net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(to))
			},
			Credential: func(context.Context, hbone.Key) (hbone.Credential, error) { return credential(web), nil },
		})
		t.Cleanup(p.Close)
		return p
	}
	// tunnel leaves an idle tunnel from p to ln.
	tunnel := func(p *hbone.Pool, ln *hbone.Listener) {
		t.Helper()
		before := ln.Stats().Tunnels
		if s, err := p.Open(t.Context(), hbone.Key{Dst: db, Addr: ln.Addr()}, hbone.Target{Authority: ln.Addr()}); err == nil {
			s.Reset()
			t.Fatal("opened")
		}
		eventuallyTunnels(t, ln, before+1)
	}

	c := &carrier{pool: pool(), tunnels: []*hbone.Listener{listen()}}
	tunnel(c.pool, listen())
	tunnels := spared + 2
	for range tunnels {
		tunnel(pool(), c.tunnels[0])
	}
	for ; tunnels > spared; tunnels-- {
		if !c.yield() {
			t.Fatal("yields nothing")
		}
		eventuallyTunnels(t, c.tunnels[0], tunnels-1)
	}
	if n := c.pool.Stats().Tunnels; n != 1 {
		t.Errorf("the pod has %d tunnels of its own, want 1", n)
	}
	for range 1 + spared {
		if !c.yield() && c.pool.Stats().Tunnels == 0 {
			t.Error("keeps a peer's last tunnels, with nothing else to give")
		}
	}
	eventuallyTunnels(t, c.tunnels[0], 0)
}

func eventuallyTunnels(t *testing.T, ln *hbone.Listener, want int) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ln.Stats().Tunnels != want; {
		if time.Now().After(deadline) {
			t.Fatalf("%d tunnels, want %d", ln.Stats().Tunnels, want)
		}
		time.Sleep(time.Millisecond)
	}
}
