// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// path is a story of one client and one server, told over one IP version.
type path struct {
	*story
	network        string
	client, server *lab.Pod
	unnamed        bool // the server does not see the client's address
}

// overPaths runs f as a subtest between two nodes and within one node, for
// each IP version.
func (s *story) overPaths(f func(p *path)) {
	s.Helper()
	client, near, far := s.pod(s.one, "client", nil), s.pod(s.one, "near", nil), s.pod(s.two, "far", nil)
	for _, where := range []struct {
		name   string
		server *lab.Pod
	}{{"two nodes", far}, {"same node", near}} {
		s.Run(where.name, func(t *testing.T) {
			sub := *s
			sub.T = t
			sub.overBoth(func(s *story, network string) {
				f(&path{story: s, network: network, client: client, server: where.server})
			})
		})
	}
}

// ports are handed out once, so that a record's target names one server. They
// are outside the pods' ephemeral ports.
var ports atomic.Int32

// target is where no server has been yet.
func (p *path) target() netip.AddrPort {
	return p.server.At(p.network, uint16(10000+ports.Add(1)))
}

// listen has the server's agent accept at a target of its own.
func (p *path) listen() (*agent.Listener, netip.AddrPort) {
	p.Helper()
	to := p.target()
	a, err := p.server.Agent()
	p.must(err)
	ln, err := a.Listen(p.ctx, agent.Socket{Network: "tcp6", Bind: netip.AddrPortFrom(netip.IPv6Unspecified(), to.Port())})
	p.must(err)
	p.Cleanup(func() { ln.Close() })
	return ln, to
}

// dial connects the client to where ln listens, and returns both ends.
func (p *path) dial(ln *agent.Listener, to netip.AddrPort) (near, far *agent.Conn) {
	p.Helper()
	near, err := p.client.Dial(p.ctx, p.network, to)
	p.must(err)
	p.Cleanup(func() { near.Close() })
	far, err = ln.Accept(p.ctx)
	p.must(err)
	p.Cleanup(func() { far.Close() })
	if got, want := far.Peer().Addr().Unmap(), p.client.At(p.network, 0).Addr(); got != want && !p.unnamed {
		p.Errorf("the server sees %v, want the client's own address %v", got, want)
	}
	return near, far
}

// connected is a connection whose target is its own.
func (p *path) connected() (near, far *agent.Conn, to netip.AddrPort) {
	p.Helper()
	ln, to := p.listen()
	near, far = p.dial(ln, to)
	return near, far, to
}

// ended asserts how both nodes recorded the connection to a target of its own:
// as carried between the two identities, ended by word.
func (p *path) ended(to netip.AddrPort, word string) (outbound, inbound lab.Record) {
	p.Helper()
	return p.endedAs(to, word, word)
}

// endedAs is ended where the two nodes have different words for it.
func (p *path) endedAs(to netip.AddrPort, client, server string) (outbound, inbound lab.Record) {
	p.Helper()
	src, dst := p.client.SPIFFEID("cluster.local"), p.server.SPIFFEID("cluster.local")
	check := func(n *lab.Node, direction, word string) lab.Record {
		p.Helper()
		r := p.record(n, "direction", direction, "target", to.String())
		for name, want := range map[string]string{"path": p.way(p.client, p.server), "src.identity": src, "dst.identity": dst, "result": word} {
			if got := r.Get(name); got != want {
				p.Errorf("%s record on %s: %s is %q, want %q: %v", direction, n.Name, name, got, want, r)
			}
		}
		return r
	}
	return check(p.client.Node, "outbound", client), check(p.server.Node, "inbound", server)
}

// carried asserts that both nodes counted the connection's bytes.
func (p *path) carried(to netip.AddrPort, fromClient, fromServer int64) {
	p.Helper()
	outbound, inbound := p.ended(to, "ok")
	count := func(r lab.Record, sent, received int64) {
		p.Helper()
		s, _ := r.Fields["bytes_sent"].(float64)
		g, _ := r.Fields["bytes_recv"].(float64)
		if int64(s) != sent || int64(g) != received {
			p.Errorf("recorded %v bytes sent and %v received, want %d and %d", s, g, sent, received)
		}
	}
	count(outbound, fromClient, fromServer)
	count(inbound, fromServer, fromClient)
}

// records are those of a node that name the target.
func (p *path) records(n *lab.Node, direction string, to netip.AddrPort) (found []lab.Record) {
	p.Helper()
	all, err := n.Records()
	p.must(err)
	for _, r := range all {
		if r.Get("direction") == direction && field(r, "target") == to.String() {
			found = append(found, r)
		}
	}
	return found
}

// within waits until nothing is missing.
func (s *story) within(limit time.Duration, missing func() string) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, limit)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for {
		what := missing()
		if what == "" {
			return
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			s.Fatalf("after %v: %s", limit, what)
		}
	}
}

// passersby are pods that come, talk and go: what a ztunnel opens once it has.
func (s *story) passersby(server *lab.Node) {
	s.Helper()
	client, far := s.pod(s.one, "early", nil), s.pod(server, "bird", nil)
	s.serve(far.Place, agent.Echo, 8080)
	for _, network := range []string{"tcp4", "tcp6"} {
		s.reached(client.Place, network, far, 8080)
	}
	s.must(errors.Join(client.Delete(s.ctx), far.Delete(s.ctx)))
}

// censuses counts on each node.
func (s *story) censuses() (all []census) {
	s.Helper()
	for _, n := range s.Nodes {
		all = append(all, s.census(n))
	}
	return all
}

// resident is the memory of the node's ztunnel, in bytes.
func (s *story) resident(n *lab.Node) (pages int64) {
	s.Helper()
	statm, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.Ztunnel.PID()))
	s.must(err)
	_, err = fmt.Sscanf(string(statm), "%d %d", new(int64), &pages)
	s.must(err)
	return pages * int64(os.Getpagesize())
}
