// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// Between a node whose CPU has no AES instructions and one whose CPU has them,
// crypto/tls chooses ChaCha20, whoever dials.
func TestANodeWithoutAESInstructionsIsInTheMesh(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{}, "mesh")
	s.must(s.two.Ztunnel.Stop(s.ctx))
	s.must(s.two.StartZtunnel(s.ctx, lab.ZtunnelOptions{Env: []string{"GODEBUG=cpu.aes=off"}}))
	with, without := s.pod(s.one, "with", nil), s.pod(s.two, "without", nil)
	for _, p := range []*lab.Pod{with, without} {
		s.serve(p.Place, agent.Echo, 8080)
	}
	s.reached(with.Place, "tcp4", without, 8080)
	s.reached(without.Place, "tcp4", with, 8080)
	for node, p := range map[*lab.Node]*lab.Pod{s.one: with, s.two: without} {
		dump, err := node.Dump(s.ctx)
		s.must(err)
		tunnels := dump.Pods[p.UID].Tunnels
		for _, tunnel := range tunnels {
			if tunnel.Cipher != "TLS_CHACHA20_POLY1305_SHA256" || tunnel.Records != "std" {
				t.Errorf("on %s: %+v", node.Name, tunnel)
			}
		}
		if len(tunnels) != 2 {
			t.Errorf("on %s: %d tunnels, want one of each direction", node.Name, len(tunnels))
		}
	}
}
