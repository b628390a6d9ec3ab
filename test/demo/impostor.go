// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// impostor is step 4: node1 was told that another ServiceAccount is at the
// address, as when an attacker's pod took over an address.
func (s *story) impostor(ctx context.Context) error {
	pod, err := s.server(ctx, "stranger")
	if err != nil {
		return err
	}
	expected, err := pod.As("till")
	if err != nil {
		return err
	}
	if err := s.lab.Nodes[0].Believe(expected); err != nil {
		return err
	}
	if err := s.lab.Settle(ctx); err != nil {
		return err
	}
	to := pod.At("tcp4", shopPort)
	s.out.note("node1 expects ServiceAccount till at %v; there is %s", to, pod.SPIFFEID("cluster.local"))
	var refused error
	c, err := s.wire(ctx, func() error {
		var conn *agent.Conn
		if conn, _, refused = exchange(ctx, s.web.Place, to, "PIN of card 6161 is 5555"); refused != nil {
			return nil
		}
		return errors.Join(fmt.Errorf("pod %v was taken for another", pod), conn.Close())
	})
	if err != nil {
		return err
	}
	leaks, err := c.Flows(func(f capture.Flow) bool { return f.Client.Addr() == s.web.IP4 && f.Server.Port() != hbonePort })
	if err != nil {
		return err
	}
	if len(leaks) > 0 {
		return fmt.Errorf("it was tried without a tunnel: %v", leaks)
	}
	r, rerr := s.lab.Nodes[0].Access(ctx, func(r lab.Record) bool {
		return r.Get("direction") == "outbound" && r.Get("result") == "tls" && strings.Contains(r.String(), to.Addr().String())
	})
	if rerr != nil {
		return fmt.Errorf("refused (%w), but the access log does not say why: %w", refused, rerr)
	}
	s.out.proved("the connection is refused, and nothing but a TLS handshake was on the wire",
		fmt.Sprintf("client says  %v\nnode1 says   %s: %s", refused, r.Get("result"), r.Get("error")))
	return nil
}
