// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// Whatever is killed, nothing between two pods of the mesh is in plaintext then or after,
// and all is well again without hands.
func TestWhateverIsKilledNothingIsPlaintextAndAllIsWellAgain(t *testing.T) {
	m := useMesh(t)
	s := m.openShop("killed", "culvert.dev/mesh=enabled")
	m.carried(s.namespace, true)
	wire := s.sniff(s.word)
	held := s.sniff(s.held)
	eventually(t, wire.sealed)
	eventually(t, held.sealed)

	var table strings.Builder
	fmt.Fprintf(&table, "%-26s %15s %18s %12s\n", "killed", "requests failed", "connections broken", "well after")
	for _, victim := range []struct {
		name string
		kill func()
	}{
		{"ztunnel of node1", func() { m.kill("node1", "ztunnel") }},
		{"ztunnel of node2", func() { m.kill("node2", "ztunnel") }},
		{"the CA's first replica", func() { m.killCA(0) }},
		{"the CA's second replica", func() { m.killCA(1) }},
		{"containerd of node1", func() { m.kill("node1", "containerd") }},
		{"kubelet of node1", func() { m.kill("node1", "kubelet") }},
		{"node2, switched off and on", func() { m.reboot("node2") }},
	} {
		begin := time.Now()
		victim.kill()
		well := s.awaitWell(begin)
		for _, sniffer := range []*sniffer{wire, held} {
			if seen := sniffer.look(); len(seen.clear) > 0 || seen.lost > 0 {
				t.Errorf("%s was killed: saw %v; %d packets were lost", victim.name, seen, seen.lost)
			}
		}
		fmt.Fprintf(&table, "%-26s %15d %18d %10.0f s\n", victim.name, s.since(begin, "load").Failed,
			s.since(begin, "hold").Failed+s.since(begin, "hold6").Failed, well.Seconds())
	}
	t.Logf("\n%s", &table)
}

// kill ends the processes of that name on a node by SIGKILL.
func (r *running) kill(node, name string) {
	r.t.Helper()
	pids := strings.Fields(r.enter(node, "pgrep", "--exact", name))
	r.enter(node, append([]string{"kill", "-KILL"}, pids...)...)
}

// killCA kills one of the CA's replicas, counted by their names.
func (m *installed) killCA(i int) {
	m.t.Helper()
	replicas := strings.Fields(m.mustKubectl("get", "pods", "--namespace=culvert-system", "--selector=app.kubernetes.io/name=culvert-identity",
		"--sort-by=.metadata.name", "--output=jsonpath={.items[*].spec.nodeName}"))
	if i >= len(replicas) {
		m.t.Fatalf("replicas of the CA are on %v", replicas)
	}
	m.kill(replicas[i], "culvert-identit") // the kernel keeps 15 letters
}

// reboot switches a node off and on.
func (r *running) reboot(node string) {
	r.t.Helper()
	pid, err := cluster.NodePID(r.name, node)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
}

// awaitWell waits until Culvert is ready on both nodes, all pods of the shop are in the
// mesh, and its clients had three seconds without a failure. It returns how long after
// begin the last failure was.
func (s *shop) awaitWell(begin time.Time) time.Duration {
	s.t.Helper()
	const calm = 3 * time.Second
	last := begin
	within(s.t, 3*time.Minute, func() error {
		for _, client := range clients {
			seconds, err := s.tallies(begin, client)
			if err != nil {
				return err
			}
			for _, t := range seconds {
				if end := time.Unix(t.Second+1, 0); t.Failed > 0 && end.After(last) {
					last = end
				}
			}
		}
		if time.Since(last) < calm+time.Second {
			return errors.New("a client failed just now")
		}
		if _, err := s.kubectl("rollout", "status", "--namespace=culvert-system", "daemonset/ztunnel", "--timeout=1s"); err != nil {
			return err
		}
		return s.allWell(time.Now().Add(-calm)) // a client that hangs does not fail, either
	})
	(&installed{s.running}).carried(s.namespace, true)
	eventually(s.t, func() error { return s.allWell(time.Now().Add(-calm)) }) // what hung may fail only now
	return last.Sub(begin)
}
