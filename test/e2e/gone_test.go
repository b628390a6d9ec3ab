// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// noticed is how long it takes to find out: a netns that is gone is looked for
// every two seconds.
const noticed = soon + 2*time.Second

// A pod's programs are killed before its CNI DEL, which may be lost: the other
// end reads an end of data from them, and then finds that nobody takes its own.
func TestAConnectionEndsSoonAfterEitherOfItsPods(t *testing.T) {
	s := tell(t, "mesh")
	pair := 0
	for _, where := range []struct {
		name   string
		server *lab.Node
	}{{"two nodes", s.two}, {"same node", s.one}} {
		for _, who := range []string{"client", "server"} {
			for _, how := range []struct {
				name   string
				remove func(*lab.Pod, context.Context) error
			}{{"deleted", (*lab.Pod).Delete}, {"vanished", (*lab.Pod).Vanish}} {
				t.Run(where.name+"/"+who+" "+how.name, func(t *testing.T) {
					sub := *s
					sub.T, sub.ctx = t, t.Context()
					pair++
					client := sub.pod(sub.one, fmt.Sprintf("client-%d", pair), nil)
					server := sub.pod(where.server, fmt.Sprintf("server-%d", pair), nil)
					sub.endsWithItsPod(client, server, who, how.remove)
				})
			}
		}
	}
}

// endsWithItsPod removes one of the pods, by who it is.
func (s *story) endsWithItsPod(client, server *lab.Pod, who string, remove func(*lab.Pod, context.Context) error) {
	gone, stays, direction := client, server, "inbound"
	if who == "server" {
		gone, stays, direction = server, client, "outbound"
	}
	var left []*agent.Conn
	var paths []*path
	var targets []netip.AddrPort
	for _, network := range []string{"tcp4", "tcp6"} {
		p := &path{story: s, network: network, client: client, server: server}
		near, far, to := p.connected()
		p.greet(ends{name: who, first: near, second: far})
		if who == "client" {
			near = far
		}
		left, paths, targets = append(left, near), append(paths, p), append(targets, to)
	}
	began := time.Now()
	s.must(remove(gone, s.ctx))
	for i, conn := range left {
		if b, err := conn.Receive(s.ctx, 1); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
			s.Errorf("the other pod reads %q, %v over %s", b, err, paths[i].network)
		}
		s.eventually("it cannot send any more", func() bool { return conn.Send(s.ctx, []byte("hello?")) != nil })
	}
	if took := time.Since(began); took > noticed {
		s.Errorf("it was told after %v", took)
	}
	for i, p := range paths {
		s.eventually("its node has recorded the end", func() bool { return len(p.records(stays.Node, direction, targets[i])) == 1 })
	}
	s.must(s.Settle(s.ctx))
	if who == "server" {
		for _, p := range paths {
			s.refused(client.Place, p.network, server, 8080)
			s.record(client.Node, "dst.addr", server.At(p.network, 8080).String(), "result", "unknown_peer")
		}
	}
	s.must(stays.Delete(s.ctx))
}
