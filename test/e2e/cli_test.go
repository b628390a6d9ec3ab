// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// culvert runs the operator's command on a node, and returns what it printed.
func (s *story) culvert(n *lab.Node, args ...string) (string, error) {
	s.Helper()
	program, err := filepath.Abs("../../bin/culvert")
	s.must(err)
	return n.Host.Run(s.ctx, append([]string{program}, args...)...)
}

// N-6: what is predicted for a CA that stops comes true to within two percent. And what
// is shown of nodes and CA is what these really say.
func TestTheOperatorKnowsHowLongANodeGoesOnWithoutTheCA(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 40 * time.Second}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	id := client.SPIFFEID("cluster.local")
	s.eventually("the first certificates", func() bool { return s.holds(s.one, id) && s.holds(s.two, server.SPIFFEID("cluster.local")) })

	at := []string{"--ztunnel", "127.0.0.1:15000", "--ca", s.Identity.Addr.String(), "--ca-dir", filepath.Dir(s.Identity.Root)}
	list, err := s.culvert(s.one, append([]string{"certs", "list"}, at...)...)
	if err != nil || !strings.Contains(list, "node1") || !strings.Contains(list, id) || !strings.Contains(list, " valid ") {
		t.Errorf("certs list: %v\n%s", err, list)
	}
	if text, err := s.culvert(s.one, append([]string{"certs", "get", id, "--chain", "-o", "text"}, at...)...); err != nil || strings.Count(text, "\ncertificate") != 2 || !strings.Contains(text, id) {
		t.Errorf("certs get: %v\n%s", err, text)
	}
	if text, err := s.culvert(s.one, append([]string{"identities"}, at...)...); err != nil || !strings.Contains(text, client.Name+" (") {
		t.Errorf("identities: %v\n%s", err, text)
	}
	if text, err := s.culvert(s.one, append([]string{"expiry"}, at...)...); err != nil || !strings.Contains(text, "Serving") {
		t.Errorf("expiry: %v\n%s", err, text)
	}
	if text, err := s.culvert(s.one, append([]string{"check", "-o", "short"}, at...)...); err != nil {
		t.Errorf("check: %v\n%s", err, text)
	}
	if text, err := s.culvert(s.one, append([]string{"status"}, at...)...); err != nil || !strings.HasPrefix(text, "ok: 1 node, 1 pod enrolled, the CA signs") || !strings.Contains(text, "PERMISSIVE   default") {
		t.Errorf("status: %v\n%s", err, text)
	}
	if text, err := s.culvert(s.one, append([]string{"bundle", "acks"}, at...)...); err != nil || !strings.Contains(text, " current ") {
		t.Errorf("bundle acks: %v\n%s", err, text)
	}

	s.renewsOnDemand(id, list, at)
	s.must(s.Identity.Kill())
	before := time.Now()
	text, err := s.culvert(s.one, "ca", "outage-budget", "-o", "json", "--ztunnel", "127.0.0.1:15000")
	s.must(err)
	asked := time.Now()
	var budget struct {
		Nodes []struct {
			First string  `json:"first"`
			Left  float64 `json:"leftSeconds"`
		} `json:"nodes"`
	}
	s.must(json.Unmarshal([]byte(text), &budget))
	if len(budget.Nodes) != 1 || budget.Nodes[0].First != id {
		t.Fatalf("outage-budget: %s", text)
	}
	predicted := time.Duration(budget.Nodes[0].Left * float64(time.Second))
	held := asked // it still was, at that time
	for range every(t, 20*time.Millisecond, 2*predicted) {
		looked := time.Now()
		if !s.holds(s.one, id) {
			break
		}
		held = looked
	}
	failed := time.Now()
	t.Logf("predicted %v, the first failure came after %v", predicted, failed.Sub(asked))
	// It was predicted between before and asked, and failed between held and failed.
	if off := max(held.Sub(asked.Add(predicted)), before.Add(predicted).Sub(failed)); off > predicted/50 {
		t.Errorf("predicted %v, the first failure came after %v: %v off", predicted, failed.Sub(asked), off)
	}
	s.refused(client.Place, "tcp4", server, 8080)
	if text, err := s.culvert(s.one, append([]string{"check", "-o", "short"}, at...)...); err == nil || !strings.Contains(text, "leaf-valid") {
		t.Errorf("check without a CA: %v\n%s", err, text)
	}
}

// renewsOnDemand has node 1 renew an identity's certificate, at the socket that only root
// reaches, and sees that it holds the one that the command names. list is what it held.
func (s *story) renewsOnDemand(id, list string, at []string) {
	s.Helper()
	socket := filepath.Join(s.one.State, "admin.sock")
	var came struct {
		Renewals []struct{ Identity, Serial string } `json:"renewals"`
	}
	s.eventually("a renewal on demand", func() bool { // within five seconds of the last it is refused
		text, err := s.culvert(s.one, "certs", "renew", id, "-o", "json", "--ztunnel-socket", socket)
		return err == nil && json.Unmarshal([]byte(text), &came) == nil
	})
	if len(came.Renewals) != 1 || came.Renewals[0].Identity != id || strings.Contains(list, came.Renewals[0].Serial) {
		s.Fatalf("renewed %+v; before:\n%s", came.Renewals, list)
	}
	if list, err := s.culvert(s.one, append([]string{"certs", "list"}, at...)...); err != nil || !strings.Contains(list, came.Renewals[0].Serial) {
		s.Errorf("renewed %+v: %v\n%s", came.Renewals, err, list)
	}
	if text, err := s.culvert(s.one, "certs", "renew", "bank/pay", "--ztunnel-socket", socket); err == nil || !strings.Contains(text, "no node that answered has a pod of it") {
		s.Errorf("an identity that is not there: %v\n%s", err, text)
	}
}
