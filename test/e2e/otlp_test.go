// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

const receiverAddr = "127.0.0.1:4318"

// receiver is what a node can reach of OTLP/HTTP. It keeps bodies as they came: text in
// them is as it was.
type receiver struct {
	mu     sync.Mutex
	bodies []string
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err == nil && q.URL.Path == "/v1/logs" {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.bodies = append(r.bodies, string(body))
	}
}

// has reports whether one request has all of these texts.
func (r *receiver) has(texts ...string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, body := range r.bodies {
		all := true
		for _, text := range texts {
			all = all && strings.Contains(body, text)
		}
		if all {
			return true
		}
	}
	return false
}

// Access records go to a receiver of OpenTelemetry's logs that comes after ztunnel, and
// nothing waits for it. What stays open has records before it ends.
func TestAccessRecordsGoToAReceiver(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: []string{
		"-otlp-endpoint", "http://" + receiverAddr, "-access-interval", "10s", "-access-sample", "1000",
	}}))
	client, server := s.pod(s.one, "client", nil), s.pod(s.one, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.must(client.AwaitEnrolled(s.ctx))
	s.must(server.AwaitEnrolled(s.ctx))
	s.reached(client.Place, "tcp4", server, 8080)
	a, err := client.Agent()
	s.must(err)
	crowd, err := a.Many(s.ctx, agent.Many{Network: "tcp6", To: server.At("tcp6", 8080), Count: 1})
	s.must(err)

	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", s.one.Ztunnel.PID()))
	s.must(err)
	t.Cleanup(func() { ns.Close() })
	ln, err := ns.Listen(s.ctx, netip.MustParseAddrPort(receiverAddr), nil)
	s.must(err)
	got := &receiver{}
	web := &http.Server{Handler: got}
	go web.Serve(ln)
	t.Cleanup(func() { web.Close() })

	s.eventually("what ended before the receiver came is there", func() bool {
		return got.has("connection complete", "src.identity", "sampled", server.At("tcp4", 8080).String(), "k8s.node.name", s.one.Name)
	})
	s.eventually("what is open has a record", func() bool {
		return got.has("connection alive", server.At("tcp6", 8080).String())
	})
	s.must(a.ManyClose(s.ctx, crowd.ID))
	s.eventually("it has one at its end, too", func() bool {
		return got.has("connection complete", server.At("tcp6", 8080).String())
	})
	if sent := s.counted(s.one, "culvert_otlp_records_total", "result", "sent"); sent < 4 {
		t.Errorf("%v records are sent, by the metrics", sent)
	}
	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.refused(s.Outside.Place, "tcp4", server, 8080)
	s.eventually("a refusal is there", func() bool { return got.has("denied", "PeerAuthentication "+s.namespace+"/default", "ERROR") })
}
