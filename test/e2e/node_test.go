// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// overOneNode runs f between two pods of a node, for each IP version.
func (s *story) overOneNode(f func(p *path)) {
	s.Helper()
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.overBoth(func(s *story, network string) {
		f(&path{story: s, network: network, client: client, server: server})
	})
}

func TestWhatStaysOnANodeIsRefusedByTheDestinationsPolicy(t *testing.T) {
	s := tell(t, "mesh")
	s.overOneNode(func(p *path) {
		ln, to := p.listen()
		near, far := p.dial(ln, to)
		p.greet(ends{name: "client", first: near, second: far})
		p.apply("AuthorizationPolicy", s.namespace, "nobody", fmt.Sprintf(`
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: nobody, namespace: %s}
spec:
  selector: {matchLabels: {app: server}}
`, s.namespace))
		policy := "AuthorizationPolicy " + s.namespace + "/nobody"
		for end, conn := range map[string]*agent.Conn{"client": near, "server": far} {
			_, err := conn.Receive(p.ctx, 1)
			wantReset(p.T, "the "+end+"'s end", err)
		}
		_, inbound := p.endedAs(to, "reset", "policy_changed")
		if got := inbound.Get("policy"); got != policy {
			p.Errorf("policy is %q, want %q", got, policy)
		}
		to = p.target()
		p.serve(p.server.Place, agent.Echo, to.Port())
		p.refused(p.client.Place, p.network, p.server, to.Port())
		p.record(p.one, "direction", "inbound", "target", to.String(), "result", "denied", "policy", policy,
			"src.identity", p.client.SPIFFEID("cluster.local"), "path", p.way(p.client, p.server))
		outbound := p.record(p.one, "direction", "outbound", "target", to.String(), "result", "denied")
		if got := outbound.Get("policy"); got != "" {
			p.Errorf("the client's record names the policy %q", got)
		}
		p.must(p.Delete("AuthorizationPolicy", s.namespace, "nobody"))
		p.must(p.Settle(p.ctx))
		p.must(p.client.Ping(p.ctx, p.network, to, "now it is allowed"))
	})
}

// A NetworkPolicy that forbids the tunnel forbids what goes beside it.
func TestWhatStaysOnANodeNeedsTheNetworksLeave(t *testing.T) {
	s := tellAlone(t, lab.Options{Nodes: 1, ZtunnelArgs: []string{"-same-node=local"}}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	var paths []*path
	var open []ends
	for _, network := range []string{"tcp4", "tcp6"} {
		p := &path{story: s, network: network, client: client, server: server}
		near, far, to := p.connected()
		e := ends{name: "client", first: near, second: far, to: to}
		p.greet(e)
		paths, open = append(paths, p), append(open, e)
	}
	s.serve(server.Place, agent.Echo, 8080)
	mend, err := s.one.Cut(server, 15008)
	s.must(err)
	began := time.Now()
	for i, p := range paths { // the tunnel of before is up, and does not answer
		p.refusedLate(8080)
		p.greet(open[i])
	}
	if took := time.Since(began); took > 40*time.Second { // for each, one for its tunnel of before and ten for a fresh one
		t.Errorf("new connections were refused after %v", took)
	}
	ctx, cancel := context.WithTimeout(s.ctx, time.Minute)
	defer cancel()
	for i, p := range paths {
		_, err := open[i].first.Receive(ctx, 1)
		wantReset(t, "the client", err)
		_, err = open[i].second.Receive(ctx, 1)
		wantReset(t, "the server", err)
		p.ended(open[i].to, "reset")
	}
	if took := time.Since(began); took < 20*time.Second {
		t.Errorf("open connections ended after %v: that was not for want of answers", took)
	}
	s.must(mend())
	for _, p := range paths {
		s.reached(client.Place, p.network, server, 8080)
	}
}

// refusedLate has the client connect to an echo server until it finds that its
// network drops everything.
func (p *path) refusedLate(port uint16) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	var err error
	for err == nil {
		err = p.client.Ping(ctx, p.network, p.server.At(p.network, port), "still?")
	}
	wantReset(p.T, "what the client read", err)
	p.record(p.one, "direction", "outbound", "target", p.server.At(p.network, port).String(), "path", p.way(p.client, p.server),
		"result", "dial", "error", "tunnel to "+p.server.SPIFFEID("cluster.local"))
}

// Law 3, between pods of a node: the one that leaves, and the one that stays.
func TestLeavingTheMeshBreaksNothingBetweenPodsOfANode(t *testing.T) {
	for _, who := range []string{"client", "server"} {
		t.Run(who, func(t *testing.T) {
			s := tell(t, "mesh")
			s.overOneNode(func(p *path) {
				near, far, to := p.connected()
				e := ends{name: "client", first: near, second: far, to: to}
				p.greet(e)
				leaving := map[string]*lab.Pod{"client": p.client, "server": p.server}[who]
				p.must(leaving.SetLabel("culvert.dev/mesh", "disabled"))
				p.must(leaving.AwaitOutside(p.ctx))
				p.greet(e)
				to2 := p.target()
				p.serve(p.server.Place, agent.Echo, to2.Port())
				p.must(p.client.Ping(p.ctx, p.network, to2, "by the way of who is outside"))
				if who == "server" {
					p.record(p.one, "direction", "outbound", "target", to2.String(), "path", "passthrough", "result", "ok")
				} else {
					p.record(p.one, "direction", "inbound", "target", to2.String(), "path", "passthrough", "result", "ok")
				}
				p.greet(e)
				p.must(errors.Join(near.Close(), far.Close()))
				p.ended(to, "ok")
				p.must(leaving.SetLabel("culvert.dev/mesh", "enabled"))
				p.must(leaving.AwaitEnrolled(p.ctx))
				p.within(10*time.Second, func() string { // until the tunnels of before are gone
					to := p.target()
					p.serve(p.server.Place, agent.Echo, to.Port())
					p.must(p.client.Ping(p.ctx, p.network, to, "in the mesh again"))
					if got := p.record(p.one, "direction", "outbound", "target", to.String(), "result", "ok").Get("path"); got != p.way(p.client, p.server) {
						return "path is " + got
					}
					return ""
				})
			})
		})
	}
}

func TestIdleConnectionsOnANodeHoldTwoDescriptorsEach(t *testing.T) {
	const count, size = 20, 4 << 20
	s := tellAlone(t, lab.Options{}, "mesh")
	s.passersby(s.one)
	s.overOneNode(func(p *path) {
		ln, to := p.listen()
		near, far := p.dial(ln, to)
		p.greet(ends{name: "client", first: near, second: far})
		before := p.census(p.one)
		for range count {
			near, far := p.dial(ln, to)
			for _, way := range [][2]*agent.Conn{{near, far}, {far, near}} {
				received := make(chan error, 1)
				go func() {
					_, err := way[1].Transfer(p.ctx, agent.Transfer{Receive: size})
					received <- err
				}()
				_, err := way[0].Transfer(p.ctx, agent.Transfer{Send: size, Open: true})
				p.must(errors.Join(err, <-received))
			}
		}
		p.within(10*time.Second, func() string {
			if more := p.census(p.one)["descriptors"] - before["descriptors"]; more > 2*count {
				return fmt.Sprintf("%d descriptors for %d connections", more, count)
			}
			return ""
		})
	})
}

// The operator's word is enough to have every byte between pods in a tunnel.
func TestSameNodeTunnelSealsWhatStaysOnANode(t *testing.T) {
	const text = "between two pods of a node"
	for _, tc := range []struct {
		path string
		args []string
	}{{"local", []string{"-same-node=local"}}, {"tunnel", []string{"-same-node=tunnel"}}} {
		t.Run(tc.path, func(t *testing.T) {
			s := tellAlone(t, lab.Options{Nodes: 1, ZtunnelArgs: tc.args}, "mesh")
			client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
			s.serve(server.Place, agent.Echo, 8080)
			s.overBoth(func(s *story, network string) {
				wire, err := server.Capture(s.ctx)
				s.must(err)
				to := server.At(network, 8080)
				s.must(client.Ping(s.ctx, network, to, text))
				s.must(wire.Stop())
				if found, err := wire.Contains([]byte(text)); found || err != nil {
					s.Errorf("payload on the pod's device: %v, %v", found, err)
				}
				flows, err := wire.Flows(nil)
				s.must(err)
				sealed := 0
				for _, f := range flows {
					if f.Server.Port() != 15008 {
						s.Errorf("a connection to port %d", f.Server.Port())
					}
					sealed += f.TLS().Records[23]
				}
				if tc.path == "tunnel" && sealed == 0 {
					s.Error("nothing was sealed")
				}
				for _, direction := range []string{"outbound", "inbound"} {
					s.record(s.one, "direction", direction, "target", to.String(), "path", tc.path, "result", "ok")
				}
			})
		})
	}
}
