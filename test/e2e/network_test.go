// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// plugged is a pod in a second network, by "tcp4" and "tcp6".
type plugged map[string]netip.Addr

// plug gives a pod its place in a second network, which its object says too.
func (s *story) plug(net *lab.Wire, p *lab.Pod, n int) plugged {
	s.Helper()
	v4, v6, err := net.Plug(p, n)
	s.must(err)
	s.must(p.Announce(s.ctx, v4, v6))
	return plugged{"tcp4": v4, "tcp6": v6}
}

// steeredAt waits until ztunnel steers a pod at an address, or does not.
func (s *story) steeredAt(p *lab.Pod, addr netip.Addr, want bool) {
	s.Helper()
	s.eventually("steering follows the addresses", func() bool {
		dump, err := p.Node.Dump(s.ctx)
		s.must(err)
		return slices.Contains(dump.Pods[p.UID].Addresses.Steered, addr) == want
	})
}

// onlyTunnels runs f and asserts that what it sent, which holds the secret, was
// on the wire in tunnels to addr only.
func (s *story) onlyTunnels(wire *lab.Wire, addr netip.Addr, secret string, f func()) {
	s.Helper()
	c, err := wire.Capture(s.ctx)
	s.must(err)
	f()
	s.must(c.Stop())
	if found, err := c.Contains([]byte(secret)); found || err != nil {
		s.Errorf("payload on the wire: %v, %v", found, err)
	}
	flows, err := c.Flows(nil)
	s.must(err)
	seen := slices.ContainsFunc(flows, func(f capture.Flow) bool { return f.Server == netip.AddrPortFrom(addr, 15008) })
	plain := slices.ContainsFunc(flows, func(f capture.Flow) bool { return f.Server.Addr() == addr && f.Server.Port() != 15008 })
	if !seen || plain {
		s.Errorf("on the wire to %v: a tunnel %v, another connection %v", addr, seen, plain)
	}
}

// A network that a pod is plugged to while it runs is carried as the first is:
// ztunnel hears of it from the kernel.
func TestASecondNetworkIsInTheMesh(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	outside := in(t, s.Lab)
	client, server, stranger := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil), outside.pod(s.one, "stranger", nil)
	ln, plain := s.serve(server.Place, agent.Echo, 8080), s.serve(stranger.Place, agent.Echo, 8080)
	net, err := s.NewNetwork("second")
	s.must(err)
	from, to, outer := s.plug(net, client, 1), s.plug(net, server, 2), s.plug(net, stranger, 3)
	lastPeer := func(s *story, ln *agent.Listener) netip.Addr {
		served, err := ln.Served(s.ctx)
		s.must(err)
		return served[len(served)-1].Peer.Addr().Unmap()
	}
	s.overBoth(func(s *story, network string) {
		s.steeredAt(client, from[network], true)
		s.steeredAt(server, to[network], true)
		target := netip.AddrPortFrom(to[network], 8080)
		s.onlyTunnels(net, to[network], "a secret by the second network", func() {
			s.must(client.Ping(s.ctx, network, target, "a secret by the second network"))
		})
		if peer := lastPeer(s, ln); peer != from[network] {
			s.Errorf("the server saw %v, want the address of the client's second network, %v", peer, from[network])
		}
		src, dst := client.SPIFFEID("cluster.local"), server.SPIFFEID("cluster.local")
		for _, end := range []struct {
			node      *lab.Node
			direction string
		}{{s.one, "outbound"}, {s.two, "inbound"}} {
			s.record(end.node, "direction", end.direction, "dst.hbone_addr", target.String(), "src.identity", src, "dst.identity", dst, "result", "ok", "path", "tunnel")
		}

		// Out of the mesh, from the address that the kernel chooses for it.
		s.must(client.Ping(s.ctx, network, netip.AddrPortFrom(outer[network], 8080), "ping"))
		if peer := lastPeer(s, plain); peer != from[network] {
			s.Errorf("a stranger saw %v, want the address of the client's second network, %v", peer, from[network])
		}
		// And from the one that the app binds.
		chosen := netip.PrefixFrom(from[network].Next().Next().Next(), 24)
		if network == "tcp6" {
			chosen = netip.PrefixFrom(chosen.Addr(), 64)
		}
		s.must(client.AddAddr("net1", chosen))
		s.steeredAt(client, chosen.Addr(), true)
		app, err := client.Agent()
		s.must(err)
		conn := s.from(app, netip.AddrPortFrom(chosen.Addr(), 0), netip.AddrPortFrom(outer[network], 8080))
		s.must(conn.Ping(s.ctx, "ping"))
		s.must(conn.Close())
		if peer := lastPeer(s, plain); peer != chosen.Addr() {
			s.Errorf("a stranger saw %v, want the address that the app bound, %v", peer, chosen.Addr())
		}
	})

	// The second network is no way around the policy.
	s.must(stranger.Ping(s.ctx, "tcp4", netip.AddrPortFrom(to["tcp4"], 8080), "ping"))
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.overBoth(func(s *story, network string) {
		if stranger.Ping(s.ctx, network, netip.AddrPortFrom(to[network], 8080), "ping") == nil {
			s.Error("a stranger of the second network reached a STRICT pod")
		}
		s.record(s.two, "direction", "inbound", "dst.addr", netip.AddrPortFrom(to[network], 8080).String(), "src.workload", "stranger", "result", "denied")
		s.must(client.Ping(s.ctx, network, netip.AddrPortFrom(to[network], 8080), "ping"))
	})
}

// An address that left a pod is another pod's now: what the pod sends to it
// leaves in a tunnel, as to any other.
func TestAnAddressThatLeftIsReachedInATunnel(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	net, err := s.NewNetwork("second")
	s.must(err)
	s.plug(net, client, 1)
	own := s.plug(net, server, 2)
	for _, moving := range []netip.Prefix{netip.MustParsePrefix("10.79.0.50/24"), netip.MustParsePrefix("fd79::50/64")} {
		addr := moving.Addr()
		s.must(client.AddAddr("net1", moving))
		s.steeredAt(client, addr, true)
		s.must(client.DelAddr("net1", moving))
		s.steeredAt(client, addr, false)
		s.must(server.AddAddr("net1", moving))
		s.must(server.Announce(s.ctx, own["tcp4"], own["tcp6"], addr))
		s.steeredAt(server, addr, true)
		network := "tcp4"
		if addr.Is6() {
			network = "tcp6"
		}
		s.onlyTunnels(net, addr, "a secret to what was ours", func() {
			s.must(client.Ping(s.ctx, network, netip.AddrPortFrom(addr, 8080), "a secret to what was ours"))
		})
		s.record(s.one, "direction", "outbound", "dst.hbone_addr", netip.AddrPortFrom(addr, 8080).String(), "result", "ok", "path", "tunnel")
	}
}
