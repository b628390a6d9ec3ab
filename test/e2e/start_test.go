// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// with starts the node's ztunnel anew with a bounding set of capabilities, as
// setpriv writes it.
func (s *story) with(n *lab.Node, capabilities string) error {
	if n.Ztunnel.Running() {
		s.must(n.Ztunnel.Stop(s.ctx))
	}
	// env, which the lab begins the command line with, runs what follows.
	return n.StartZtunnel(s.ctx, lab.ZtunnelOptions{Env: []string{"CAPABILITIES=" + capabilities, "setpriv", "--bounding-set", capabilities}})
}

func TestZtunnelNeedsThreeCapabilitiesAndNamesThem(t *testing.T) {
	s := tellAlone(t, lab.Options{}, "mesh")
	const least = "-all,+net_admin,+sys_admin,+sys_ptrace"
	s.must(s.with(s.one, least))
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	s.serve(client.Place, agent.Echo, 8080)
	s.overBoth(func(s *story, network string) {
		s.reached(client.Place, network, server, 8080)
		s.reached(server.Place, network, client, 8080)
	})
	// A pod that is found by its processes.
	plain := in(t, s.Lab)
	late := plain.pod(s.one, "late", nil)
	s.must(s.Label(plain.namespace, "culvert.dev/mesh", "enabled"))
	s.must(late.AwaitEnrolled(s.ctx))

	for capability, name := range map[string]string{"net_admin": "CAP_NET_ADMIN", "sys_admin": "CAP_SYS_ADMIN", "sys_ptrace": "CAP_SYS_PTRACE"} {
		err := s.with(s.one, strings.Replace(least, ",+"+capability, "", 1))
		if err == nil || !strings.Contains(err.Error(), "ztunnel: missing capabilities: "+name+" (") {
			t.Errorf("without %s: %v", name, err)
		}
		s.must(s.with(s.one, least))
	}
}
