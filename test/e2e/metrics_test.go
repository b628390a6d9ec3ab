// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// counted sums the samples of a family on a node that bear these labels
// (name, value, ...).
func (s *story) counted(n *lab.Node, family string, labels ...string) (sum float64) {
	s.Helper()
	status, body, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15020/metrics")
	s.must(err)
	if status != http.StatusOK {
		s.Fatalf("metrics of %s: status %d", n.Name, status)
	}
	var want []string
	for i := 0; i < len(labels); i += 2 {
		want = append(want, fmt.Sprintf("%s=%q", labels[i], labels[i+1]))
	}
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		last := strings.LastIndexByte(line, ' ')
		sample, value := line[:max(last, 0)], line[last+1:]
		if name, _, _ := strings.Cut(sample, "{"); name != family || !containsAll(sample, want) {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		s.must(err)
		sum += v
	}
	return sum
}

// gauge is the one sample of a family without labels.
func (s *story) gauge(n *lab.Node, family string) float64 {
	s.Helper()
	_, body, err := n.HTTPGet(s.ctx, "http://127.0.0.1:15020/metrics")
	s.must(err)
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), family+" "); ok {
			v, err := strconv.ParseFloat(value, 64)
			s.must(err)
			return v
		}
	}
	s.Fatalf("%s has no %s", n.Name, family)
	return 0
}

// reporter is one side's view of connections from client to server.
type reporter struct {
	node   *lab.Node
	labels []string
}

// reporters are both nodes' views, if they carried the connections in tunnels.
func (p *path) reporters() []reporter {
	common := []string{
		"source_workload", p.client.Name, "source_workload_namespace", p.namespace,
		"source_principal", p.client.SPIFFEID("cluster.local"),
		"destination_workload", p.server.Name, "destination_workload_namespace", p.namespace,
		"destination_principal", p.server.SPIFFEID("cluster.local"),
		"request_protocol", "tcp", "connection_security_policy", "mutual_tls",
	}
	return []reporter{
		{p.client.Node, append([]string{"reporter", "source"}, common...)},
		{p.server.Node, append([]string{"reporter", "destination"}, common...)},
	}
}

func TestBothNodesCountAConnectionAndItsBytes(t *testing.T) {
	s := tell(t, "mesh")
	s.overPaths(func(p *path) {
		const opened, closed = "istio_tcp_connections_opened_total", "istio_tcp_connections_closed_total"
		const received, sent = "istio_tcp_received_bytes_total", "istio_tcp_sent_bytes_total"
		all := func() (counts []map[string]float64) {
			for _, r := range p.reporters() {
				of := map[string]float64{}
				for _, family := range []string{opened, closed, received, sent} {
					of[family] = p.counted(r.node, family, r.labels...)
				}
				counts = append(counts, of)
			}
			return counts
		}
		before := all()
		near, far, to := p.connected()
		p.must(near.Send(p.ctx, []byte("five!")))
		_, err := far.ReceiveFull(p.ctx, 5)
		p.must(err)
		p.must(far.Send(p.ctx, []byte("and eleven!")))
		_, err = near.ReceiveFull(p.ctx, 11)
		p.must(err)
		check := func(when string, wantClosed float64) {
			p.Helper()
			p.eventually(when+" both nodes have counted", func() bool {
				for i, now := range all() {
					for family, want := range map[string]float64{opened: 1, closed: wantClosed, received: 5, sent: 11} {
						if now[family]-before[i][family] != want {
							return false
						}
					}
				}
				return true
			})
		}
		check("while it is open,", 0)
		p.must(near.Close())
		p.must(far.Close())
		p.ended(to, "ok")
		check("when it has ended,", 1)
		for _, r := range p.reporters() {
			if n := p.counted(r.node, "istio_tcp_connections_failed_total", r.labels...); n != 0 {
				p.Errorf("%s counts %v failures", r.node.Name, n)
			}
		}
	})
}

// A003-3: PERMISSIVE takes both, and tells them apart.
func TestPlaintextAndRefusalsAreCountedAsWhatTheyAre(t *testing.T) {
	s := tell(t, "mesh")
	server := s.pod(s.two, "server", nil)
	plain := s.pod(s.one, "plain", func(p *lab.PodSpec) { p.Labels["culvert.dev/mesh"] = "disabled" })
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(plain.Place, agent.Echo, 8080)
	inbound := []string{"reporter", "destination", "destination_workload", "server", "destination_workload_namespace", s.namespace,
		"source_principal", "unknown", "connection_security_policy", "unknown"}
	outbound := []string{"reporter", "source", "source_workload", "server", "source_workload_namespace", s.namespace,
		"destination_principal", "unknown", "connection_security_policy", "unknown"}

	s.overBoth(func(s *story, network string) {
		carriedIn := s.counted(s.two, "culvert_plaintext_connections_total", "direction", "inbound", "reason", "permissive")
		carriedOut := s.counted(s.two, "culvert_plaintext_connections_total", "direction", "outbound")
		before := s.counted(s.two, "istio_tcp_received_bytes_total", inbound...)
		s.reached(plain.Place, network, server, 8080)
		s.reached(server.Place, network, plain, 8080)
		s.eventually("plaintext is counted as plaintext", func() bool {
			return s.counted(s.two, "istio_tcp_received_bytes_total", inbound...)-before == float64(len("ping")) &&
				s.counted(s.two, "istio_tcp_connections_opened_total", outbound...) > 0 &&
				s.counted(s.two, "culvert_plaintext_connections_total", "direction", "inbound", "reason", "permissive") > carriedIn &&
				s.counted(s.two, "culvert_plaintext_connections_total", "direction", "outbound") > carriedOut
		})
	})

	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	denied := append([]string{"response_flags", "DENY"}, inbound...)
	s.overBoth(func(s *story, network string) {
		failed := s.counted(s.two, "istio_tcp_connections_failed_total", denied...)
		word := s.counted(s.two, "culvert_connections_refused_total", "direction", "inbound", "result", "denied")
		bytes := s.counted(s.two, "istio_tcp_received_bytes_total", inbound...)
		s.refused(plain.Place, network, server, 8080)
		s.eventually("the refusal is counted", func() bool {
			return s.counted(s.two, "istio_tcp_connections_failed_total", denied...) == failed+1 &&
				s.counted(s.two, "culvert_connections_refused_total", "direction", "inbound", "result", "denied") > word
		})
		if now := s.counted(s.two, "istio_tcp_received_bytes_total", inbound...); now != bytes {
			s.Errorf("a refused connection counts %v bytes", now-bytes)
		}
	})
}
