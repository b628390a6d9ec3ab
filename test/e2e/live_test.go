// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// soon is how long the ends of a connection may wait for what ends it.
const soon = 5 * time.Second

// A policy that comes is asked about tunnels' connections too, and about those
// of its own workload only.
func TestAPolicyThatComesEndsOpenTunnelledConnections(t *testing.T) {
	s := tell(t, "mesh")
	clients := []*lab.Pod{s.pod(s.one, "far", nil), s.pod(s.two, "near", nil)}
	server, other := s.pod(s.two, "server", nil), s.pod(s.two, "other", nil)
	type open struct {
		near, far *agent.Conn
		to        netip.AddrPort
		from      *lab.Pod
	}
	var forbidden, allowed []open
	for _, client := range clients {
		s.overBoth(func(s *story, network string) {
			for _, to := range []*lab.Pod{server, other} {
				p := &path{story: s, network: network, client: client, server: to}
				ln, addr := p.listen()
				conn, err := client.Dial(s.ctx, network, addr)
				s.must(err)
				far, err := ln.Accept(s.ctx)
				s.must(err)
				s.must(conn.Send(s.ctx, []byte("before")))
				_, err = far.ReceiveFull(s.ctx, len("before"))
				s.must(err)
				one := open{conn, far, addr, client}
				if to == server {
					forbidden = append(forbidden, one)
				} else {
					allowed = append(allowed, one)
				}
			}
		})
	}

	began := time.Now()
	s.apply("AuthorizationPolicy", s.namespace, "nobody", fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: %s}
spec:
  selector: {matchLabels: {app: server}}
`, s.namespace))
	ctx, cancel := context.WithTimeout(s.ctx, soon)
	defer cancel()
	for _, c := range forbidden {
		for end, conn := range map[string]*agent.Conn{"client": c.near, "server": c.far} {
			_, err := conn.Receive(ctx, 1)
			wantReset(t, "the "+end+"'s end", err)
		}
		s.record(server.Node, "direction", "inbound", "target", c.to.String(), "path", s.way(c.from, server),
			"result", "policy_changed", "response_flags", "DENY", "policy", "AuthorizationPolicy "+s.namespace+"/nobody",
			"src.identity", c.from.SPIFFEID("cluster.local"))
	}
	if took := time.Since(began); took > soon {
		t.Errorf("they ended after %v", took)
	}
	for _, c := range allowed {
		s.must(c.near.Send(s.ctx, []byte("after")))
		got, err := c.far.ReceiveFull(s.ctx, len("after"))
		s.must(err)
		if string(got) != "after" {
			t.Errorf("received %q", got)
		}
		s.must(c.near.Close())
		s.must(c.far.Close())
	}

	s.must(s.Delete("AuthorizationPolicy", s.namespace, "nobody"))
	s.must(s.Settle(s.ctx))
	s.serve(server.Place, agent.Echo, 8080)
	for _, client := range clients {
		s.reached(client.Place, "tcp4", server, 8080)
		s.reached(client.Place, "tcp6", server, 8080)
	}
}
