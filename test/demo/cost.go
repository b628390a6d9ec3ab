// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const (
	echoPort    = 9001
	discardPort = 9002
	measureFor  = 2 * time.Second
)

// cost is step 5.
func (s *story) cost(ctx context.Context) error {
	if err := s.lab.Namespace("plain", nil); err != nil {
		return err
	}
	client, err := s.lab.Nodes[0].Pod(ctx, lab.PodSpec{Namespace: "plain", Name: "client"})
	if err != nil {
		return err
	}
	server, err := s.lab.Nodes[1].Pod(ctx, lab.PodSpec{Namespace: "plain", Name: "server"})
	if err != nil {
		return err
	}
	direct, err := measure(ctx, client, server)
	if err != nil {
		return fmt.Errorf("direct: %w", err)
	}
	meshed, err := measure(ctx, s.web, s.till)
	if err != nil {
		return fmt.Errorf("through both nodes: %w", err)
	}
	s.out.line("       %-22s %12s %12s %12s", "", "throughput", "64 B p50", "64 B p99")
	for _, row := range []struct {
		name string
		cost
	}{{"direct, plaintext", direct}, {"through both nodes", meshed}} {
		s.out.line("       %-22s %7.2f Gb/s %9d µs %9d µs", row.name, row.bulk.Gbps(), row.trips.P50.Microseconds(), row.trips.P99.Microseconds())
	}
	s.out.note("One connection, %v each. Client, server and both nodes share %d CPUs, and between the", measureFor, runtime.NumCPU())
	s.out.note("namespaces there is no network card: compare the rows, not the numbers with other machines.")
	return nil
}

type cost struct {
	bulk  agent.Throughput
	trips agent.Quantiles
}

// measure has client send to server in bulk, then back and forth.
func measure(ctx context.Context, client, server *lab.Pod) (c cost, err error) {
	for kind, port := range map[agent.Kind]uint16{agent.Echo: echoPort, agent.Discard: discardPort} {
		if _, err := server.Serve(ctx, kind, port); err != nil {
			return c, err
		}
	}
	a, err := client.Agent()
	if err != nil {
		return c, err
	}
	m := agent.Measure{Network: "tcp4", To: server.At("tcp4", discardPort), Duration: measureFor}
	if c.bulk, err = a.Throughput(ctx, m); err != nil {
		return c, err
	}
	m.To = server.At("tcp4", echoPort)
	c.trips, err = a.Latency(ctx, m)
	return c, err
}
