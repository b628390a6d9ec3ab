// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// What culvert foretells by ztunnel's own records and dump is what a change then does.
func TestWhatAChangeOfPoliciesDoesIsForetold(t *testing.T) {
	s := tell(t, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.reached(client.Place, "tcp4", server, 8080)
	s.reached(s.Outside.Place, "tcp4", server, 8080)
	id, outside := client.SPIFFEID("cluster.local"), s.Outside.Addr("tcp4").String()
	s.record(s.two, "direction", "inbound", "src.identity", id, "dst.workload", server.Name, "dst.namespace", s.namespace, "result", "ok")
	s.record(s.two, "direction", "inbound", "path", "passthrough", "dst.workload", server.Name, "dst.namespace", s.namespace, "result", "ok")
	log := s.logOf(s.two)

	strict := s.asked(1, "preflight", "strict", "--ns", s.namespace, "--from", log)
	if !strings.HasPrefix(strict, "2 connections judged, 1 would be shut out\n") || !strings.Contains(strict, "\n"+outside+" ") {
		t.Errorf("preflight strict:\n%s", strict)
	}
	file := filepath.Join(t.TempDir(), "new.yaml")
	s.must(os.WriteFile(file, []byte(peerAuthentication(s.namespace, "STRICT")), 0o600))
	if text := s.asked(1, "policy", "test", "-f", file, "--from", log); !strings.Contains(text, "1 newly refused, 0 newly allowed") {
		t.Errorf("policy test:\n%s", text)
	}
	explain := func(from string) string {
		return s.asked(0, "policy", "explain", s.namespace+"/"+server.Name+":8080", "--from", from)
	}
	if text := explain(outside); !strings.HasPrefix(text, "allowed: from "+outside) || !strings.Contains(text, "as node2 holds it") {
		t.Errorf("explained before the change:\n%s", text)
	}

	s.apply("PeerAuthentication", s.namespace, "default", peerAuthentication(s.namespace, "STRICT"))
	s.refused(s.Outside.Place, "tcp4", server, 8080)
	if text := explain(outside); !strings.HasPrefix(text, "refused: from "+outside) || !strings.Contains(text, "PeerAuthentication "+s.namespace+"/default") {
		t.Errorf("explained after it:\n%s", text)
	}
	s.reached(client.Place, "tcp4", server, 8080)
	if text := explain(id); !strings.HasPrefix(text, "allowed: from "+id) {
		t.Errorf("explained after it:\n%s", text)
	}
}

// logOf writes the records that a node's ztunnel has logged into a file.
func (s *story) logOf(n *lab.Node) string {
	s.Helper()
	records, err := n.Records()
	s.must(err)
	var lines strings.Builder
	for _, r := range records {
		lines.WriteString(r.String() + "\n")
	}
	path := filepath.Join(s.TempDir(), "records.jsonl")
	s.must(os.WriteFile(path, []byte(lines.String()), 0o600))
	return path
}

// asked asks node 2's ztunnel by a command that is to end with an exit code.
func (s *story) asked(code int, args ...string) string {
	s.Helper()
	text, err := s.culvert(s.two, append(args, "--ztunnel", "127.0.0.1:15000")...)
	if (err != nil) != (code != 0) {
		s.Errorf("culvert %s: %v, want exit code %d\n%s", strings.Join(args, " "), err, code, text)
	}
	return text
}
