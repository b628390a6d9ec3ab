// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// ask sends one HTTP request from a place, and returns the status line of the answer, or
// nothing if there is none.
func (s *story) ask(from *lab.Place, network string, to netip.AddrPort, request string) string {
	s.Helper()
	conn, err := from.Dial(s.ctx, network, to)
	if err != nil {
		return ""
	}
	defer conn.Close()
	if conn.Send(s.ctx, fmt.Appendf(nil, "%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", request)) != nil {
		return ""
	}
	answer, _ := conn.Receive(s.ctx, 4096) // a reset, an end: no answer
	status, _, _ := strings.Cut(string(answer), "\r\n")
	return status
}

// said awaits that a node's log has each message, and in the scope by which its level is set.
func (s *story) said(n *lab.Node, scopes map[string]string) {
	s.Helper()
	for message, scope := range scopes {
		s.eventually(message+" stands in the log in scope "+scope, func() bool {
			text, err := os.ReadFile(n.Ztunnel.Log)
			s.must(err)
			return strings.Contains(string(text), fmt.Sprintf(`"message":%q,"scope":%q`, message, scope))
		})
	}
}

// A pod may name any address and port: its own, a neighbour's, the nodes'. Those of the
// nodes it reaches by its own ztunnel.
func TestNoPodReachesWhatTellsOfOthers(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(server.AwaitEnrolled(s.ctx))
	requests := []string{"GET /config_dump", "GET /events", "GET /logging", "POST /logging?level=debug", "POST /quitquitquit", "POST /certs/renew?all", "POST /probe?pod=u", "GET /debug/pprof/heap"}
	if status, _, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15000/logging"); err != nil || status != 200 {
		t.Fatalf("from the node itself: %d, %v", status, err)
	}
	s.said(s.one, map[string]string{"ztunnel started": "ztunnel", "SVID issued": "certs", "pod enrolled": "pods"})
	s.mapOf(s.one)
	s.hasNoAbstractSocket(s.one)
	// What the map tells whoever has its token.
	others := map[uint16][]string{15080: {"GET /", "GET /api/graph", "GET /api/live", "POST /login"}, 15081: {"GET /readyz"}}
	s.overBoth(func(s *story, network string) {
		s.reached(client.Place, network, server, 8080) // the pod's connections are carried
		loopback := netip.MustParseAddr("127.0.0.1")
		if network == "tcp6" {
			loopback = netip.IPv6Loopback()
		}
		at := []netip.Addr{loopback, client.At(network, 1).Addr(), server.At(network, 1).Addr(), s.one.Addr(network), s.two.Addr(network)}
		others[15000] = requests
		for _, addr := range at {
			for port, requests := range others {
				for _, request := range requests {
					if got := s.ask(client.Place, network, netip.AddrPortFrom(addr, port), request); got != "" {
						s.Errorf("%s at %v port %d: %s", request, addr, port, got)
					}
				}
			}
		}
		// These are for scrapes and probes from everywhere, and tell nothing else.
		for port, open := range map[uint16]string{15020: "GET /metrics", 15021: "GET /healthz/ready"} {
			at := netip.AddrPortFrom(s.one.Addr(network), port)
			if got := s.ask(client.Place, network, at, open); got != "HTTP/1.1 200 OK" {
				s.Errorf("%s at %v: %q", open, at, got)
			}
			for _, request := range requests {
				if got := s.ask(client.Place, network, at, request); got != "HTTP/1.1 404 Not Found" && got != "HTTP/1.1 405 Method Not Allowed" {
					s.Errorf("%s at %v: %q", request, at, got)
				}
			}
		}
	})
}

// mapOf serves the map on a node, as its operator does, until the story ends.
func (s *story) mapOf(n *lab.Node) {
	s.Helper()
	program, err := filepath.Abs("../../bin/culvert")
	s.must(err)
	served, err := n.Host.Start("map", program, "map", "--ztunnel", "127.0.0.1:15000", "--health-listen", "127.0.0.1:15081")
	s.must(err)
	s.Cleanup(func() { served.Kill() })
	s.eventually("the map asks strangers for a token", func() bool {
		status, _, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15080/api/graph")
		return err == nil && status == http.StatusUnauthorized
	})
}

// hasNoAbstractSocket is that nothing listens on the node at a name without a file: no
// directory of root's would guard it.
func (s *story) hasNoAbstractSocket(n *lab.Node) {
	s.Helper()
	list, err := n.Host.Run(s.ctx, "cat", "/proc/net/unix")
	s.must(err)
	for line := range strings.Lines(list) {
		if fields := strings.Fields(line); len(fields) == 8 && strings.HasPrefix(fields[7], "@") {
			s.Errorf("a socket without a file: %s", line)
		}
	}
}
