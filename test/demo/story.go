// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

const (
	shopPort  = 8080 // of the servers that clients use
	probePort = 8081 // of the servers that the kubelet probes
	hbonePort = 15008
	meshLabel = "culvert.dev/mesh"
)

// story is the demo's state from step to step.
type story struct {
	out *printer
	lab *lab.Lab

	web  *lab.Pod    // the client, on node1
	till *lab.Pod    // the server, on node2
	old  *agent.Conn // opened before the mesh

	culvert  string // the operator's program
	ztunnels string // addresses at which it asks both nodes
	address  string // of the map
	endMap   func() // nil: there is none
}

// tell goes through the steps.
func (s *story) tell(ctx context.Context) error {
	if err := s.cast(ctx); err != nil {
		return err
	}
	for _, step := range []struct {
		title string
		do    func(context.Context) error
	}{
		{"Without the mesh, whoever holds the wire reads along", s.plain},
		{"A label on the namespace: the running pods are in the mesh", s.meshed},
		{"Who is outside gets in, until policy says STRICT", s.strict},
		{"A pod that is not who it should be is refused", s.impostor},
		{"What it costs", s.cost},
		{"What the operator sees", s.seen},
	} {
		s.out.begin(step.title)
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return nil
}

// cast starts the pods.
func (s *story) cast(ctx context.Context) (err error) {
	if err := s.lab.Namespace("shop", nil); err != nil {
		return err
	}
	if s.web, err = s.lab.Nodes[0].Pod(ctx, lab.PodSpec{Namespace: "shop", Name: "web", ServiceAccount: "web"}); err != nil {
		return err
	}
	if s.till, err = s.server(ctx, "till"); err != nil {
		return err
	}
	s.out.line("   node1 %v   pod %-9v %v   a client", s.lab.Nodes[0].IP4, s.web, s.web.IP4)
	s.out.line("   node2 %v   pod %-9v %v   a server on port %d, its readiness probe on %d", s.lab.Nodes[1].IP4, s.till, s.till.IP4, shopPort, probePort)
	s.out.line("   CA    %v, and a client outside of the cluster", s.lab.Identity.Addr.Addr())
	s.out.note("Nodes and pods are network namespaces, the wire between the nodes a bridge. Nothing else is simulated.")
	return nil
}

// server starts a pod of its own ServiceAccount on node2 with two ordinary
// servers in it.
func (s *story) server(ctx context.Context, name string) (*lab.Pod, error) {
	pod, err := s.lab.Nodes[1].Pod(ctx, lab.PodSpec{
		Namespace: "shop", Name: name, ServiceAccount: name,
		Readiness: lab.HTTPProbe(strconv.Itoa(probePort)),
	})
	if err != nil {
		return nil, err
	}
	for kind, port := range map[agent.Kind]int{agent.SpeakFirst: shopPort, agent.HTTP: probePort} {
		if _, err := pod.Start(string(kind), pod.App(), "serve", "-kind", string(kind), fmt.Sprintf("[::]:%d", port)); err != nil {
			return nil, err
		}
	}
	return pod, s.serving(ctx, pod)
}

// serving waits until both servers listen, by asking inside the pod: loopback
// is never steered.
func (s *story) serving(ctx context.Context, pod *lab.Pod) error {
	for _, port := range []uint16{shopPort, probePort} {
		addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		if err := eventually(ctx, func() error {
			conn, err := pod.Dial(ctx, "tcp4", addr)
			if err != nil {
				return err
			}
			return conn.Close()
		}); err != nil {
			return fmt.Errorf("the server of pod %v does not listen on %d: %w", pod, port, err)
		}
	}
	return nil
}

// exchange dials the server, says text, and returns the server's first line,
// which tells whom it sees.
func exchange(ctx context.Context, from *lab.Place, to netip.AddrPort, text string) (conn *agent.Conn, greeting string, err error) {
	conn, err = from.Dial(ctx, "tcp", to)
	if err != nil {
		return nil, "", err
	}
	if greeting, err = readLine(ctx, conn); err == nil {
		err = conn.Ping(ctx, text)
	}
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, greeting, nil
}

func readLine(ctx context.Context, conn *agent.Conn) (string, error) {
	var line strings.Builder
	for {
		b, err := conn.ReceiveFull(ctx, 1)
		if err != nil {
			return "", err
		}
		if b[0] == '\n' {
			return line.String(), nil
		}
		line.Write(b)
	}
}

// wire captures what passes between the nodes while do runs.
func (s *story) wire(ctx context.Context, do func() error) (*capture.Capture, error) {
	c, err := s.lab.Wire.Capture(ctx)
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		_ = c.Stop()
		return nil, err
	}
	return c, c.Stop()
}
