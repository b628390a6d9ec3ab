// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

const strictPolicy = `apiVersion: security.istio.io/v1beta1
kind: PeerAuthentication
metadata:
  name: default
  namespace: %s
spec:
  mtls:
    mode: STRICT
`

// strict is step 3. The policy of the whole mesh is taken back before that of
// the namespace is tried.
func (s *story) strict(ctx context.Context) error {
	if err := s.outsideGetsIn(ctx, "PERMISSIVE, the default: a client outside of the mesh is let in"); err != nil {
		return err
	}
	if err := s.strictIn(ctx, "istio-system", 40001); err != nil {
		return err
	}
	s.out.show("kubectl delete peerauthentication default -n istio-system")
	if err := errors.Join(s.lab.Delete("PeerAuthentication", "istio-system", "default"), s.lab.Settle(ctx)); err != nil {
		return err
	}
	if err := s.outsideGetsIn(ctx, "the client outside is let in again"); err != nil {
		return err
	}
	return s.strictIn(ctx, "shop", 40002)
}

func (s *story) outsideGetsIn(ctx context.Context, proved string) error {
	conn, greeting, err := exchange(ctx, s.lab.Outside.Place, s.till.At("tcp4", shopPort), "let me in")
	if err != nil {
		return fmt.Errorf("PERMISSIVE refuses a client outside of the mesh: %w", err)
	}
	s.out.proved(proved, "the server says: "+greeting)
	return conn.Close()
}

// strictIn applies the policy and checks who is refused and who is not.
func (s *story) strictIn(ctx context.Context, namespace string, port uint16) error {
	policy := fmt.Sprintf(strictPolicy, namespace)
	s.out.show("kubectl apply -f - <<.\n" + policy + ".\n")
	if err := errors.Join(s.lab.Apply(policy), s.lab.Settle(ctx)); err != nil {
		return err
	}
	if err := s.outsideIsRefused(ctx, port); err != nil {
		return err
	}
	conn, _, err := exchange(ctx, s.web.Place, s.till.At("tcp4", shopPort), "I am in the mesh")
	if err != nil {
		return fmt.Errorf("STRICT refuses a meshed client: %w", err)
	}
	s.out.proved(fmt.Sprintf("pod %v, in the mesh, still gets in", s.web))
	return errors.Join(conn.Close(), s.probed(ctx))
}

// outsideIsRefused shows how, as client and node see it. The client's port is
// given, so that the node's record of the refusal is found by it.
func (s *story) outsideIsRefused(ctx context.Context, port uint16) error {
	client, err := s.lab.Outside.Agent()
	if err != nil {
		return err
	}
	from := netip.AddrPortFrom(s.lab.Outside.IP4, port)
	conn, err := client.DialWith(ctx, agent.Socket{Network: "tcp4", Bind: from}, agent.Connect{To: s.till.At("tcp4", shopPort)})
	if err == nil {
		// The refusal may meet the first read as well as connect().
		defer conn.Close()
		_, err = readLine(ctx, conn)
	}
	if err == nil {
		return fmt.Errorf("STRICT lets a client in that is outside of the mesh")
	}
	r, rerr := s.lab.Nodes[1].Access(ctx, func(r lab.Record) bool { return r.AddrPort("src.addr") == from })
	if rerr != nil {
		return fmt.Errorf("refused (%w), but the access log does not say so: %w", err, rerr)
	}
	if r.Get("result") != "denied" {
		return fmt.Errorf("refused, but not as denied: %v", r)
	}
	s.out.proved("now the client outside is refused",
		fmt.Sprintf("client says  %v\nnode2 says   %s: %s", err, r.Get("result"), r.Get("error")))
	return nil
}

// probed checks that the kubelet's probe passes and that of another process of
// the node does not.
func (s *story) probed(ctx context.Context) error {
	url := fmt.Sprintf("http://%v/", s.till.At("tcp4", probePort))
	node := s.lab.Nodes[1]
	kubelet, err := node.Kubelet.Agent()
	if err != nil {
		return err
	}
	answer, err := kubelet.Get(ctx, agent.Request{URL: url})
	if err != nil {
		return fmt.Errorf("the kubelet's probe fails: %w", err)
	}
	if answer.Status != 200 {
		return fmt.Errorf("the kubelet's probe fails: %+v", answer)
	}
	other, err := node.Host.Agent()
	if err != nil {
		return err
	}
	if _, err := other.Get(ctx, agent.Request{URL: url}); err == nil {
		return fmt.Errorf("a process of the node that is not the kubelet gets in")
	}
	s.out.proved("so does the kubelet's probe; any other process of the node is refused",
		"probe says    200 "+strings.TrimSpace(answer.Body))
	return nil
}
