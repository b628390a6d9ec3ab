// SPDX-License-Identifier: Apache-2.0

package spire

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

const serverConf = `server {
  bind_address = "127.0.0.1"
  bind_port = "PORT"
  socket_path = "DIR/server/api.sock"
  trust_domain = "cluster.local"
  data_dir = "DIR/server"
  log_level = "DEBUG"
  ca_ttl = "1h"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = "DIR/server/db.sqlite3" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
}
`

const agentConf = `agent {
  data_dir = "DIR/agent"
  server_address = "127.0.0.1"
  server_port = "PORT"
  socket_path = "DIR/public/agent.sock"
  admin_socket_path = "DIR/private/admin.sock"
  trust_domain = "cluster.local"
  insecure_bootstrap = true
  log_level = "DEBUG"
  authorized_delegates = ["spiffe://cluster.local/ns/culvert-system/sa/ztunnel"]
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "memory" { plugin_data {} }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

// realSPIRE is SPIRE's server and agent.
type realSPIRE struct {
	t                 *testing.T
	programs, dir     string
	stopServer, agent func()
}

// startSPIRE runs the programs that SPIRE_PROGRAMS names a directory of.
func startSPIRE(t *testing.T) *realSPIRE {
	t.Helper()
	programs := os.Getenv("SPIRE_PROGRAMS")
	if programs == "" {
		t.Skip("set SPIRE_PROGRAMS to a directory with spire-server and spire-agent, of v1.15.3 or later")
	}
	dir, err := os.MkdirTemp("", "spire")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &realSPIRE{t: t, programs: programs, dir: dir}
	_, port, err := net.SplitHostPort(env.Address(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"server.conf": serverConf, "agent.conf": agentConf} {
		text = strings.NewReplacer("DIR", dir, "PORT", port).Replace(text)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, sub := range []string{"server", "agent", "public", "private"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	s.stopServer = s.run("spire-server")
	s.try("healthcheck")
	token := strings.Fields(s.server("token", "generate", "-spiffeID", "spiffe://cluster.local/node"))[1]
	s.entry(self, "unix:uid:0")
	s.entry(web, "k8s:ns:shop", "k8s:sa:web")
	s.entry(db, "k8s:ns:shop", "k8s:sa:db")
	s.agent = s.run("spire-agent", "-joinToken", token)
	return s
}

// run starts one of the programs, until stop or the end of the test.
func (s *realSPIRE) run(name string, flags ...string) (stop func()) {
	s.t.Helper()
	conf := filepath.Join(s.dir, strings.TrimPrefix(name, "spire-")+".conf")
	cmd := exec.Command(filepath.Join(s.programs, name), append([]string{"run", "-config", conf}, flags...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := env.Start(cmd); err != nil {
		s.t.Fatal(err)
	}
	ended := false
	stop = func() {
		if ended {
			return
		}
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if s.t.Failed() {
			s.t.Logf("%s:\n%s", name, log.Bytes()[max(0, log.Len()-6000):])
		}
	}
	s.t.Cleanup(stop)
	return stop
}

func (s *realSPIRE) try(args ...string) {
	s.t.Helper()
	waitFor(s.t, strings.Join(args, " "), func() bool {
		return exec.Command(filepath.Join(s.programs, "spire-server"), append(args, "-socketPath", filepath.Join(s.dir, "server/api.sock"))...).Run() == nil
	})
}

func (s *realSPIRE) server(args ...string) string {
	s.t.Helper()
	out, err := exec.Command(filepath.Join(s.programs, "spire-server"), append(args, "-socketPath", filepath.Join(s.dir, "server/api.sock"))...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

// entry registers an identity whose SVIDs last 20 s.
func (s *realSPIRE) entry(id spiffeid.ID, selectors ...string) {
	s.t.Helper()
	args := []string{"entry", "create", "-parentID", "spiffe://cluster.local/node", "-spiffeID", id.String(), "-x509SVIDTTL", "20"}
	for _, one := range selectors {
		args = append(args, "-selector", one)
	}
	s.server(args...)
}

// A004-2, A004-6: pods have SVIDs of SPIRE's own server in their tunnels, its agent replaces
// them twice while tunnels are made all the time, and none fails. An entry that comes later
// is taken, and an agent that is away and comes back as well.
func TestSPIREItselfGivesPodsTheirIdentities(t *testing.T) {
	s := startSPIRE(t)
	n := &node{pods: map[spiffeid.ID][]Pod{}}
	n.start(t, filepath.Join(s.dir, "public/agent.sock"), filepath.Join(s.dir, "private/admin.sock"))
	t.Cleanup(n.Hold(web))
	t.Cleanup(n.Hold(db))
	waitFor(t, "SVIDs of both", func() bool { return n.Certificate(web).State == certs.Valid && n.Certificate(db).State == certs.Valid })
	begin, shaken := time.Now(), 0
	for n.rotations() < 4 { // two of each
		if err := shake(t, n); err != nil {
			t.Fatalf("after %d tunnels and %d rotations: %v", shaken, n.rotations(), err)
		}
		shaken++
		if time.Since(begin) > time.Minute {
			t.Fatalf("%d rotations within a minute", n.rotations())
		}
	}
	t.Logf("%d tunnels, none failed, in %.0f s with %d rotations", shaken, time.Since(begin).Seconds(), n.rotations())
	if standing := n.Standing(); standing.Reason != certs.Signs {
		t.Errorf("%+v", standing)
	}
	if f := n.Following(); f.Generation == 0 || !f.Connected || f.Roots != 1 {
		t.Errorf("%+v", f)
	}

	late := spiffeid.RequireFromPath(td, "/ns/shop/sa/late")
	n.place(late, Pod{UID: "4711", Name: "late-1"})
	t.Cleanup(n.Hold(late))
	waitFor(t, "a refusal", func() bool { return strings.Contains(n.Certificate(late).Error, "no registration entry") })
	s.entry(late, "k8s:pod-uid:4711")
	waitFor(t, "the SVID of the late entry", func() bool { return n.Certificate(late).State == certs.Valid })

	before := leaf(t, n, web)
	s.agent()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := n.client.Check(ctx); err == nil {
		t.Error("the agent is away, and is well")
	}
	if !leaf(t, n, web).Equal(before) {
		t.Error("the SVID did not stay")
	}
	token := strings.Fields(s.server("token", "generate", "-spiffeID", "spiffe://cluster.local/node"))[1]
	if err := os.RemoveAll(filepath.Join(s.dir, "agent")); err != nil {
		t.Fatal(err)
	}
	s.agent = s.run("spire-agent", "-joinToken", token)
	waitFor(t, "the SVID of the agent that is back", func() bool { return !leaf(t, n, web).Equal(before) })
}
