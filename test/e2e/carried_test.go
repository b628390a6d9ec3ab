// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/culvert-mesh/culvert/test/lab/agent"
)

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
