// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestTenThousandConnectionsBetweenTwoNodes(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.crowd(s.two, crowdSize(10_000))
}

func TestFourThousandConnectionsWithinANode(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.crowd(s.one, crowdSize(4_000))
}

// streamsInTunnel is how many connections of two pods share a tunnel.
const streamsInTunnel = 100

func crowdSize(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// crowd holds count connections from a pod on node one to a pod on another
// node, each with bytes of its own, and then none, over each IP version.
func (s *story) crowd(server *lab.Node, count int) {
	s.Helper()
	s.passersby(server)
	start := s.censuses()
	client, far := s.pod(s.one, "client", nil), s.pod(server, "far", nil)
	s.overBoth(func(s *story, network string) {
		p := &path{story: s, network: network, client: client, server: far}
		p.crowd(count)
	})
	s.must(errors.Join(client.Delete(s.ctx), far.Delete(s.ctx)))
	for i, n := range s.Nodes {
		s.wantNothingNew(n, start[i])
	}
}

func (p *path) crowd(count int) {
	p.Helper()
	to := p.target()
	p.serve(p.server.Place, agent.Echo, to.Port())
	a, err := p.client.Agent()
	p.must(err)
	before := p.censuses()
	start := time.Now()
	crowd, err := a.Many(p.ctx, agent.Many{Network: p.network, To: to, Count: count, Timeout: 30 * time.Second})
	p.must(err)
	if crowd.OK != count {
		p.Fatalf("%d of %d connections echo, failed %v", crowd.OK, count, crowd.Failed)
	}
	opened := time.Since(start)
	again, err := a.ManyCheck(p.ctx, crowd.ID)
	p.must(err)
	if again.OK != count {
		p.Errorf("%d of %d connections echo again, failed %v", again.OK, count, again.Failed)
	}
	for _, n := range p.Nodes {
		now := p.census(n)
		p.Logf("%s: %d descriptors, %d goroutines, %d MiB", n.Name, now["descriptors"], now["goroutines"], p.resident(n)>>20)
	}
	p.must(a.ManyClose(p.ctx, crowd.ID))
	p.Logf("%d connections in %v, the first echo after %v (p50), %v (p99)", count, opened, crowd.Echo.P50, crowd.Echo.P99)
	p.allEnded(p.client.Node, "outbound", to, count)
	p.allEnded(p.server.Node, "inbound", to, count)
	// What stays are their tunnels, which nobody uses, for some minutes. A busy machine
	// may have opened one more than they need, because another took no more just then.
	for i, n := range p.Nodes {
		for _, pod := range []*lab.Pod{p.client, p.server} {
			if pod.Node == n {
				before[i]["descriptors"] += count/streamsInTunnel + 1
				before[i]["goroutines"] += count/streamsInTunnel + 1
			}
		}
		p.wantNothingNew(n, before[i])
	}
}

// allEnded waits for the records of count connections to a target, all good.
func (p *path) allEnded(n *lab.Node, direction string, to netip.AddrPort, count int) {
	p.Helper()
	p.within(20*time.Second, func() string {
		records := p.records(n, direction, to)
		for _, r := range records {
			if r.Get("result") != "ok" || r.Get("bytes_sent") != "32" || r.Get("bytes_recv") != "32" {
				p.Fatalf("%s record of %s: %v", direction, n.Name, r)
			}
		}
		if len(records) != count {
			return fmt.Sprintf("%d %s records of %s, want %d", len(records), direction, n.Name, count)
		}
		return ""
	})
}
