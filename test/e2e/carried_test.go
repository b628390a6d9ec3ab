// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/netip"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// A002-1: TLS 1.3 on port 15008, and no plaintext on the wire.
func TestPodsOfTwoNodesTalkInMutualTLS(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	ln := s.serve(server.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		wire, err := s.Wire.Capture(s.ctx)
		s.must(err)
		s.must(client.Ping(s.ctx, network, server.At(network, 8080), "a secret between pods"))
		s.must(wire.Stop())
		if found, err := wire.Contains([]byte("a secret between pods")); found || err != nil {
			s.Errorf("payload on the wire: %v, %v", found, err)
		}
		flows, err := wire.Flows(nil)
		s.must(err)
		for _, f := range flows {
			if f.Server.Port() != 15008 && f.Server.Addr() == server.At(network, 0).Addr() {
				s.Errorf("a connection to port %d was on the wire", f.Server.Port())
			}
		}
		served, err := ln.Served(s.ctx)
		s.must(err)
		if last := served[len(served)-1]; last.Peer.Addr().Unmap() != client.At(network, 0).Addr() {
			s.Errorf("the server saw %v, want the client's own address %v", last.Peer, client.At(network, 0))
		}
		src, dst := client.SPIFFEID("cluster.local"), server.SPIFFEID("cluster.local")
		target := server.At(network, 8080).String()
		s.record(s.one, "direction", "outbound", "dst.hbone_addr", target, "src.identity", src, "dst.identity", dst, "result", "ok", "path", "tunnel")
		s.record(s.two, "direction", "inbound", "dst.hbone_addr", target, "src.identity", src, "dst.identity", dst, "result", "ok", "path", "tunnel")
	})
}

// A001-18: pods of one node prove themselves each by its own certificate.
func TestPodsOfOneNodeTalkWithTheSameProofs(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		s.reached(client.Place, network, server, 8080)
		target := server.At(network, 8080).String()
		for _, direction := range []string{"outbound", "inbound"} {
			s.record(s.one, "direction", direction, "target", target, "result", "ok", "path", s.way(client, server),
				"src.identity", client.SPIFFEID("cluster.local"), "dst.identity", server.SPIFFEID("cluster.local"))
		}
	})
}

// A001-4, A003-8: nothing is put into a pod, and running pods are enrolled as they are.
func TestALabelEnrollsRunningPodsAndBreaksNothing(t *testing.T) {
	s := tell(t)
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		before, err := client.Dial(s.ctx, network, server.At(network, 8080))
		s.must(err)
		s.must(before.Ping(s.ctx, "before the label"))

		s.must(s.Label(s.namespace, "culvert.dev/mesh", "enabled"))
		s.must(client.AwaitEnrolled(s.ctx))
		s.must(server.AwaitEnrolled(s.ctx))
		within, err := client.Dial(s.ctx, network, server.At(network, 8080))
		s.must(err)
		s.must(within.Ping(s.ctx, "in the mesh"))
		s.must(before.Ping(s.ctx, "the connection of before the label"))

		s.must(s.Label(s.namespace, "culvert.dev/mesh", "disabled"))
		s.must(client.AwaitOutside(s.ctx))
		s.must(server.AwaitOutside(s.ctx))
		s.must(before.Ping(s.ctx, "never carried"))
		s.must(within.Ping(s.ctx, "still carried"))
		s.reached(client.Place, network, server, 8080)

		target := server.At(network, 8080).String()
		s.must(before.Close())
		s.must(within.Close())
		s.record(s.one, "dst.hbone_addr", target, "result", "ok", "path", "tunnel")
		s.record(s.two, "dst.hbone_addr", target, "result", "ok", "path", "tunnel")
	})
}

func TestPodsOutsideTheMeshAreReachedAndReach(t *testing.T) {
	s := tell(t, "mesh")
	opted := func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" }
	meshed := s.pod(s.one, "meshed", nil)
	s.serve(meshed.Place, agent.Echo, 8080)
	far, near := s.pod(s.two, "far", opted), s.pod(s.one, "near", opted)
	for _, plain := range []*lab.Pod{far, near} {
		s.serve(plain.Place, agent.Echo, 8080)
		s.overBoth(func(s *story, network string) {
			s.reached(plain.Place, network, meshed, 8080)
			s.record(s.one, "direction", "inbound", "dst.addr", meshed.At(network, 8080).String(),
				"path", "passthrough", "result", "ok", "src.workload", plain.Name)
			s.reached(meshed.Place, network, plain, 8080)
			r := s.record(s.one, "direction", "outbound", "dst.addr", plain.At(network, 8080).String(),
				"path", "passthrough", "result", "ok")
			if r.Get("dst.identity") != "" {
				s.Errorf("a plaintext peer has an identity: %v", r)
			}
		})
	}
	s.overBoth(func(s *story, network string) {
		s.reached(near.Place, network, far, 8080)
		s.reached(far.Place, network, near, 8080)
	})
	for _, n := range s.Nodes {
		records, err := n.Records()
		s.must(err)
		for _, r := range records {
			if r.Get("src.namespace") == s.namespace && r.Get("src.workload") != "meshed" && r.Get("dst.workload") != "meshed" {
				t.Errorf("%s carried what is outside the mesh: %v", n.Name, r)
			}
		}
	}
}

func TestAnAddressInsideTheMeshThatNobodyHasIsRefused(t *testing.T) {
	s := tell(t, "mesh")
	client := s.pod(s.one, "client", nil)
	s.overBoth(func(s *story, network string) {
		nobody := netip.MustParseAddrPort("10.77.2.250:8080")
		if network == "tcp6" {
			nobody = netip.MustParseAddrPort("[fd77:2::beef]:8080")
		}
		if err := client.Ping(s.ctx, network, nobody, "hello"); !errors.Is(err, syscall.ECONNRESET) {
			s.Errorf("to %v: %v, want a reset", nobody, err)
		}
		s.record(s.one, "dst.addr", nobody.String(), "result", "unknown_peer", "response_flags", "CONNECT")
	})
}

func TestADeletedPodsConnectionsEnd(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	conn, err := client.Dial(s.ctx, "tcp4", server.At("tcp4", 8080))
	s.must(err)
	s.must(conn.Ping(s.ctx, "alive"))
	s.must(server.Delete(s.ctx))
	if b, err := conn.Receive(s.ctx, 1); err == nil && len(b) > 0 {
		s.Errorf("received %q from a deleted pod", b)
	}
	s.must(s.Settle(s.ctx))
	s.refused(client.Place, "tcp4", server, 8080)
	s.record(s.one, "dst.addr", server.At("tcp4", 8080).String(), "result", "unknown_peer")
}

// A004-4: nobody registers a pod.
func TestCertificatesAreFetchedAtEnrollmentAndForgottenWithTheLastPod(t *testing.T) {
	s := tell(t, "mesh")
	same := func(p *lab.PodSpec) { p.ServiceAccount = "worker" }
	first, second := s.pod(s.one, "first", same), s.pod(s.one, "second", same)
	id := first.SPIFFEID("cluster.local")
	s.eventually("the SVID is there without a connection", func() bool { return s.holds(s.one, id) })
	if s.holds(s.two, id) {
		t.Errorf("node2 holds %s, which none of its pods has", id)
	}
	s.must(first.Delete(s.ctx))
	if !s.holds(s.one, id) {
		t.Errorf("the SVID went with the first of two pods")
	}
	s.must(second.Delete(s.ctx))
	s.eventually("the SVID is forgotten", func() bool { return !s.holds(s.one, id) })
}

// holds reports whether the node's ztunnel has a valid SVID of id.
func (s *story) holds(n *lab.Node, id string) bool {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var held []struct{ Identity, State string }
	s.must(json.Unmarshal(dump.Text["certificates"], &held))
	for _, c := range held {
		if c.Identity == id {
			return c.State == "Available"
		}
	}
	return false
}
