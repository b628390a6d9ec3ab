// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const portRange = "ipv4/ip_local_port_range"

// crowds opens count connections to each destination and holds them all.
func (s *story) crowds(from *lab.Place, network string, count int, to ...netip.AddrPort) {
	s.Helper()
	a, err := from.Agent()
	s.must(err)
	for _, to := range to {
		crowd, err := a.Many(s.ctx, agent.Many{Network: network, To: to, Count: count, Timeout: 30 * time.Second})
		s.must(err)
		s.Cleanup(func() { a.ManyClose(s.ctx, crowd.ID) })
		if crowd.OK != count {
			s.Errorf("%d of %d connections to %v echo, failed %v", crowd.OK, count, to, crowd.Failed)
		}
	}
}

// A pod with 100 ports has 60 connections to each of four servers, whether they
// go in tunnels or leave the mesh.
func TestPortsRunOutForEachDestinationByItself(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	ports := []uint16{8081, 8082, 8083, 8084}
	for _, port := range ports {
		s.serve(server.Place, agent.Echo, port)
		s.serve(s.Outside.Place, agent.Echo, port)
	}
	s.must(client.Sysctl(portRange, "40000 40099"))
	s.overBoth(func(s *story, network string) {
		var meshed, outside []netip.AddrPort
		for _, port := range ports {
			meshed = append(meshed, server.At(network, port))
			outside = append(outside, netip.AddrPortFrom(s.Outside.Addr(network), port))
		}
		s.crowds(client.Place, network, 60, meshed...)
		s.crowds(client.Place, network, 60, outside...)
	})
}

// 10,000 connections to one destination are a story of their own.
func TestTenThousandConnectionsToAHundredDestinations(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	var to []uint16
	for i := range 100 {
		to = append(to, uint16(9000+i))
		s.serve(server.Place, agent.Echo, to[i])
	}
	s.overBoth(func(s *story, network string) {
		var at []netip.AddrPort
		for _, port := range to {
			at = append(at, server.At(network, port))
		}
		s.crowds(client.Place, network, crowdSize(10_000)/len(at), at...)
	})
}

// A client that speaks plaintext has all of its ports, while a leg to the app is
// open for each of its connections.
func TestAPlaintextClientMayUseAnyPort(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	plain := s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	s.serve(server.Place, agent.Echo, 8080)
	for _, given := range []string{"1024 65535", "1025 65535"} {
		s.must(plain.Sysctl(portRange, given))
		s.overBoth(func(s *story, network string) {
			s.crowds(plain.Place, network, 1000, server.At(network, 8080))
		})
	}
}
