// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
)

const spireServer = `server {
  bind_address = "0.0.0.0"
  bind_port = "8081"
  socket_path = "DIR/server/api.sock"
  trust_domain = "cluster.local"
  data_dir = "DIR/server"
  log_level = "DEBUG"
  ca_ttl = "1h"
}
plugins {
  DataStore "sql" { plugin_data { database_type = "sqlite3", connection_string = "DIR/server/db.sqlite3" } }
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { keys_path = "DIR/server/keys.json" } }
}
`

const spireAgent = `agent {
  data_dir = "DIR/NODE"
  server_address = "SERVER"
  server_port = "8081"
  socket_path = "DIR/NODE/public/agent.sock"
  admin_socket_path = "DIR/NODE/private/admin.sock"
  trust_domain = "cluster.local"
  insecure_bootstrap = true
  log_level = "DEBUG"
  authorized_delegates = ["spiffe://cluster.local/ns/culvert-system/sa/ztunnel"]
}
plugins {
  NodeAttestor "join_token" { plugin_data {} }
  KeyManager "disk" { plugin_data { directory = "DIR/NODE" } }
  WorkloadAttestor "unix" { plugin_data {} }
}
`

// spire is SPIRE on the lab's nodes: its server on the first, an agent on each.
type spire struct {
	*story
	programs, dir string
	server        *lab.Process
	agents        map[*lab.Node]*lab.Process
}

// needSPIRE is the directory of SPIRE's programs.
func needSPIRE(t *testing.T) string {
	t.Helper()
	programs := os.Getenv("SPIRE_PROGRAMS")
	if programs == "" {
		t.Skip("set SPIRE_PROGRAMS to a directory with spire-server and spire-agent, of v1.15.3 or later")
	}
	return programs
}

// startSPIRE returns once each node's agent answers.
func (s *story) startSPIRE(programs string) *spire {
	s.Helper()
	dir, err := os.MkdirTemp("", "spire") // short: it has sockets
	s.must(err)
	s.Cleanup(func() { os.RemoveAll(dir) })
	p := &spire{story: s, programs: programs, dir: dir, agents: map[*lab.Node]*lab.Process{}}
	s.must(os.Mkdir(filepath.Join(dir, "server"), 0o700))
	p.configure("server", spireServer)
	p.startServer()
	for _, n := range []*lab.Node{s.one, s.two} {
		p.configure(n.Name, strings.NewReplacer("NODE", n.Name, "SERVER", s.one.IP4.String()).Replace(spireAgent))
		for _, sub := range []string{"public", "private"} {
			s.must(os.MkdirAll(filepath.Join(dir, n.Name, sub), 0o700))
		}
		p.entry(n, "spiffe://cluster.local/ns/culvert-system/sa/ztunnel", "unix:uid:0")
		said := p.ask("token", "generate", "-spiffeID", "spiffe://cluster.local/"+n.Name)
		p.startAgent(n, "-joinToken", strings.Fields(said)[1])
	}
	s.Cleanup(p.tell)
	return p
}

func (p *spire) configure(name, text string) {
	p.Helper()
	p.must(os.WriteFile(filepath.Join(p.dir, name+".conf"), []byte(strings.ReplaceAll(text, "DIR", p.dir)), 0o600))
}

func (p *spire) startServer() {
	p.Helper()
	var err error
	p.server, err = p.one.Host.Start("spire-server", filepath.Join(p.programs, "spire-server"), "run", "-config", filepath.Join(p.dir, "server.conf"))
	p.must(err)
	p.eventually("SPIRE's server", func() bool { _, err := p.try("healthcheck"); return err == nil })
}

func (p *spire) startAgent(n *lab.Node, flags ...string) {
	p.Helper()
	argv := append([]string{filepath.Join(p.programs, "spire-agent"), "run", "-config", filepath.Join(p.dir, n.Name+".conf")}, flags...)
	agent, err := n.Host.Start("spire-agent", argv...)
	p.must(err)
	p.agents[n] = agent
	p.eventually("SPIRE's agent on "+n.Name, func() bool {
		_, err := n.Host.Run(p.ctx, filepath.Join(p.programs, "spire-agent"), "healthcheck", "-socketPath", p.sockets(n).Workload)
		return err == nil
	})
}

func (p *spire) sockets(n *lab.Node) *lab.SPIRE {
	return &lab.SPIRE{Workload: filepath.Join(p.dir, n.Name, "public/agent.sock"), Admin: filepath.Join(p.dir, n.Name, "private/admin.sock")}
}

// try is a command of SPIRE's server.
func (p *spire) try(args ...string) (string, error) {
	argv := append([]string{filepath.Join(p.programs, "spire-server")}, args...)
	return p.one.Host.Run(p.ctx, append(argv, "-socketPath", filepath.Join(p.dir, "server/api.sock"))...)
}

func (p *spire) ask(args ...string) string {
	p.Helper()
	said, err := p.try(args...)
	p.must(err)
	return said
}

// entry registers an identity for a node's pods, by SVIDs that last a minute.
func (p *spire) entry(n *lab.Node, id string, selectors ...string) {
	p.Helper()
	args := []string{"entry", "create", "-parentID", "spiffe://cluster.local/" + n.Name, "-spiffeID", id, "-x509SVIDTTL", "60"}
	for _, one := range selectors {
		args = append(args, "-selector", one)
	}
	p.ask(args...)
}

// register is entry for the ServiceAccount of a story's pod, which is called as the pod.
func (p *spire) register(n *lab.Node, name string) {
	p.Helper()
	p.entry(n, fmt.Sprintf("spiffe://cluster.local/ns/%s/sa/%s", p.namespace, name), "k8s:ns:"+p.namespace, "k8s:sa:"+name)
}

// root is the one of SPIRE's server, in DER.
func (p *spire) root() []byte {
	p.Helper()
	block, rest := pem.Decode([]byte(p.ask("bundle", "show")))
	if block == nil || len(strings.TrimSpace(string(rest))) > 0 {
		p.Fatalf("SPIRE's bundle is not of one root: %s", rest)
	}
	return block.Bytes
}

// tell shows what SPIRE's programs said, if the story has failed.
func (p *spire) tell() {
	if !p.Failed() {
		return
	}
	for _, process := range []*lab.Process{p.server, p.agents[p.one], p.agents[p.two]} {
		text, _ := os.ReadFile(process.Log)
		p.Logf("%s:\n%s", process.Name, text[max(0, len(text)-4000):])
	}
}
