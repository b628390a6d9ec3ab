// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// plain is step 1.
func (s *story) plain(ctx context.Context) error {
	const secret = "PIN of card 4242 is 1234"
	to := s.till.At("tcp4", shopPort)
	c, err := s.wire(ctx, func() (err error) {
		s.old, _, err = exchange(ctx, s.web.Place, to, secret)
		return err
	})
	if err != nil {
		return err
	}
	found, err := c.Contains([]byte(secret))
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("the payload is not on the wire: the capture is blind")
	}
	s.out.proved(fmt.Sprintf("pod %v talks to pod %v", s.web, s.till), fmt.Sprintf("%v -> %v", s.old.Local(), s.old.Peer()))
	flows, err := c.Flows(func(f capture.Flow) bool { return f.Server == to })
	if err != nil {
		return err
	}
	if len(flows) != 1 {
		return fmt.Errorf("on the wire are %v: want one connection to %v", flows, to)
	}
	s.out.proved("its payload is on the wire between the nodes, as clear text", dump(flows[0].Up))
	return nil
}

// meshed is step 2.
func (s *story) meshed(ctx context.Context) error {
	s.out.show("kubectl label namespace shop " + meshLabel + "=enabled")
	if err := s.lab.Label("shop", meshLabel, "enabled"); err != nil {
		return err
	}
	labelled := time.Now()
	if err := errors.Join(s.web.AwaitEnrolled(ctx), s.till.AwaitEnrolled(ctx)); err != nil {
		return err
	}
	s.out.proved(fmt.Sprintf("both running pods were enrolled %d ms later, without a restart", time.Since(labelled).Milliseconds()))
	if err := s.old.Ping(ctx, "still here"); err != nil {
		return fmt.Errorf("the connection from before broke: %w", err)
	}
	s.out.proved("the connection opened before keeps working, as it was")
	const secret = "PIN of card 5151 is 9876"
	to := s.till.At("tcp4", shopPort)
	var conn *agent.Conn
	var greeting string
	c, err := s.wire(ctx, func() (err error) {
		conn, greeting, err = exchange(ctx, s.web.Place, to, secret)
		return err
	})
	if err != nil {
		return err
	}
	if err := s.provedEncrypted(c, secret); err != nil {
		return err
	}
	if want := "you are [::ffff:" + s.web.IP4.String() + "]"; !strings.HasPrefix(greeting, want) {
		return fmt.Errorf("the server says %q: want %q", greeting, want)
	}
	if err := conn.Close(); err != nil {
		return err
	}
	if err := s.provedIdentities(ctx, conn); err != nil {
		return err
	}
	s.out.proved("the server program sees the client's own address", fmt.Sprintf("it says: %s", greeting))
	return nil
}

// provedEncrypted checks that new traffic is TLS 1.3 to port 15008 and no more.
func (s *story) provedEncrypted(c *capture.Capture, secret string) error {
	found, err := c.Contains([]byte(secret))
	if err != nil {
		return err
	}
	if found {
		return fmt.Errorf("the payload is on the wire")
	}
	flows, err := c.Flows(func(f capture.Flow) bool { return len(f.Up)+len(f.Down) > 0 && f.Client.Addr() == s.web.IP4 })
	if err != nil {
		return err
	}
	var tunnel *capture.Flow
	for _, f := range flows {
		if f.Server.Port() != hbonePort || f.Server.Addr() != s.till.IP4 {
			return fmt.Errorf("pod %v still opens connections outside of the tunnel: %v", s.web, f)
		}
		if t := f.TLS(); !t.Only || t.Version != tls.VersionTLS13 {
			return fmt.Errorf("the tunnel is not TLS 1.3: %v: %+v", f, t)
		}
		tunnel = &f
	}
	if tunnel == nil {
		return fmt.Errorf("no tunnel from %v to %v:%d is on the wire", s.web.IP4, s.till.IP4, hbonePort)
	}
	records := tunnel.TLS().Records
	s.out.proved("a new connection is TLS 1.3 to port 15008, and its payload is not found on the wire",
		fmt.Sprintf("%v -> %v: %d handshake records, %d of ciphertext, ServerHello selects 0x0304",
			tunnel.Client, tunnel.Server, records[capture.Handshake], records[capture.ApplicationData]),
		dump(tunnel.Up[len(tunnel.Up)-min(len(tunnel.Up), 32):]))
	return nil
}

// provedIdentities checks both nodes' access records of the connection.
func (s *story) provedIdentities(ctx context.Context, conn *agent.Conn) error {
	web, till := s.web.SPIFFEID("cluster.local"), s.till.SPIFFEID("cluster.local")
	from := conn.Local()
	mine := func(direction string) func(lab.Record) bool {
		return func(r lab.Record) bool {
			return r.Get("direction") == direction && r.Get("src.identity") == web && r.Get("dst.identity") == till &&
				(direction == "inbound" || r.AddrPort("src.addr") == from)
		}
	}
	out, err := s.lab.Nodes[0].Access(ctx, mine("outbound"))
	if err != nil {
		return err
	}
	in, err := s.lab.Nodes[1].Access(ctx, mine("inbound"))
	if err != nil {
		return err
	}
	if out.Get("result") != "ok" || in.Get("result") != "ok" {
		return fmt.Errorf("the connection did not end well: %v, %v", out, in)
	}
	s.out.proved("each end proved who it is, says the access log of both nodes",
		fmt.Sprintf("node1 outbound  %s\n             -> %s", out.Get("src.identity"), out.Get("dst.identity")),
		fmt.Sprintf("node2 inbound   %s\n             -> %s", in.Get("src.identity"), in.Get("dst.identity")))
	return nil
}

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
	s.out.proved(fmt.Sprintf("pod %v, in the mesh, is not", s.web))
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
	s.out.proved("the kubelet's probe is not either; any other process of the node is")
	return nil
}

// impostor is step 4: node1 was told that another ServiceAccount is at the
// address, as when an attacker's pod took over an address.
func (s *story) impostor(ctx context.Context) error {
	pod, err := s.server(ctx, "stranger")
	if err != nil {
		return err
	}
	expected, err := pod.YAML(func(o *corev1.Pod) { o.Spec.ServiceAccountName = "till" })
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
	conn, _, err := exchange(ctx, s.web.Place, to, "PIN of card 6161 is 5555")
	if err == nil {
		conn.Close()
		return fmt.Errorf("pod %v was taken for another", pod)
	}
	r, rerr := s.lab.Nodes[0].Access(ctx, func(r lab.Record) bool {
		return r.Get("direction") == "outbound" && r.Get("result") == "tls" && strings.Contains(r.String(), to.Addr().String())
	})
	if rerr != nil {
		return fmt.Errorf("refused (%w), but the access log does not say why: %w", err, rerr)
	}
	s.out.proved("the connection is refused, and never tried in plaintext",
		fmt.Sprintf("client says  %v\nnode1 says   %s: %s", err, r.Get("result"), r.Get("error")))
	return nil
}
