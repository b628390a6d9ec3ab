// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

// A root is replaced in three steps, as docs/identity.md says, while connections are
// open and others are made: nothing restarts, and nobody notices. The nodes' -ca-root
// files are of before, and stay so. A002-16, A000-17, A001-8, A001-11.
func TestARootIsReplacedWhileConnectionsGoOn(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 25 * time.Second}, "mesh")
	c := s.carried()
	client, server, until := c.client, c.server, c.until
	dir := filepath.Dir(s.Identity.Root)
	first, err := os.ReadFile(s.Identity.Root)
	s.must(err)
	second := filepath.Join(t.TempDir(), "second")
	next, err := ca.Open(second, ca.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")})
	s.must(err)
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(second, name))
		s.must(err)
		return text
	}
	put := func(name string, text []byte) {
		path := filepath.Join(dir, name)
		s.must(os.WriteFile(path+".next", text, 0o600))
		s.must(os.Rename(path+".next", path))
	}
	roots := s.roots
	until("both nodes follow the first bundle", roots(1))
	before := s.following(s.one).Generation

	s.must(os.Remove(filepath.Join(dir, "root.key"))) // of the first root
	put("root.pem", bytes.Join([][]byte{first, read("root.pem")}, nil))
	until("both nodes trust both roots", roots(2))

	put("issuer.key", read("issuer.key"))
	put("issuer.pem", read("issuer.pem"))
	issuer := next.Issuer().SerialNumber.String()
	until("both have certificates of the new issuer", func() bool {
		return s.issuer(s.one, client.SPIFFEID("cluster.local")) == issuer && s.issuer(s.two, server.SPIFFEID("cluster.local")) == issuer
	})
	// The open streams are of tunnels of the old root until a younger one proves both ends.
	moved := time.Now()
	until("the certificates of the old root have run out", func() bool { return time.Since(moved) > 30*time.Second })

	put("root.pem", read("root.pem"))
	until("both nodes trust the new root only", roots(1))
	dropped := time.Now()
	until("some time passes", func() bool { return time.Since(dropped) > 5*time.Second })
	if after := s.following(s.one).Generation; after <= before {
		t.Errorf("generation %d after %d", after, before)
	}
	// A node that starts now has a file of a root that is no more, and its own memory.
	old := filepath.Join(t.TempDir(), "old.pem")
	s.must(os.WriteFile(old, first, 0o600))
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: append(s.flags, "-ca-root", old)}))
	s.eventually("the node is served by the CA of another root", func() bool {
		return s.issuer(s.one, client.SPIFFEID("cluster.local")) == issuer
	})
	s.overBoth(func(s *story, network string) { s.reached(client.Place, network, server, 8080) })
}

// carried are two pods with connections between them that stay open.
type carried struct {
	*story
	client, server *lab.Pod
	open           []*agent.Conn
}

func (s *story) carried() carried {
	s.Helper()
	c := carried{story: s, client: s.pod(s.one, "client", nil), server: s.pod(s.two, "server", nil)}
	s.serve(c.server.Place, agent.Echo, 8080)
	for _, network := range []string{"tcp4", "tcp6"} {
		conn, err := c.client.Dial(s.ctx, network, c.server.At(network, 8080))
		s.must(err)
		c.open = append(c.open, conn)
	}
	return c
}

// until waits for ok. Meanwhile what is open goes on, and others are made.
func (c carried) until(when string, ok func() bool) {
	c.Helper()
	for range every(c.T, time.Second, 2*time.Minute) {
		for _, conn := range c.open {
			if err := conn.Ping(c.ctx, "still here"); err != nil {
				c.Fatalf("%s: %v", when, err)
			}
		}
		c.reached(c.client.Place, "tcp4", c.server, 8080)
		if ok() {
			return
		}
	}
	c.Fatalf("never: %s", when)
}

// roots is whether both nodes follow a bundle of so many roots.
func (s *story) roots(want int) func() bool {
	return func() bool {
		for _, n := range []*lab.Node{s.one, s.two} {
			if f := s.following(n); f.Roots != want || f.Heard != 0 || !f.Connected {
				return false
			}
		}
		return true
	}
}

// A root is renewed with its key, while connections are open and others are made: nodes
// get its next certificate, keep the former one, and nothing ends. Nothing restarts, and the
// issuer stays. A node that starts later with the former certificate alone is served, too.
func TestARootIsRenewedWhileConnectionsGoOn(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{TTL: 25 * time.Second}, "mesh")
	c := s.carried()
	c.until("both nodes follow the first bundle", s.roots(1))
	before, issuer := s.following(s.one).Generation, s.issuer(s.one, c.client.SPIFFEID("cluster.local"))
	former, err := os.ReadFile(s.Identity.Root)
	s.must(err)
	if text, err := s.culvert(s.one, "ca", "renew-root", "--ca-dir", filepath.Dir(s.Identity.Root), "--root-ttl", "20y"); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	c.until("both nodes trust both certificates of the root", s.roots(2))
	renewed := time.Now()
	c.until("the certificates of before have run out", func() bool { return time.Since(renewed) > 30*time.Second })
	if after := s.following(s.one).Generation; after <= before || s.issuer(s.one, c.client.SPIFFEID("cluster.local")) != issuer {
		t.Errorf("generation %d after %d, issuer %s after %s", after, before, s.issuer(s.one, c.client.SPIFFEID("cluster.local")), issuer)
	}
	at := []string{"--ztunnel", "127.0.0.1:15000", "--ca", s.Identity.Addr.String(), "--ca-dir", filepath.Dir(s.Identity.Root)}
	if text, err := s.culvert(s.one, append([]string{"check", "-o", "short"}, at...)...); err != nil {
		t.Errorf("check: %v\n%s", err, text)
	}
	old := filepath.Join(t.TempDir(), "old.pem")
	s.must(os.WriteFile(old, former, 0o600))
	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.StartZtunnel(s.ctx, lab.ZtunnelOptions{Args: append(s.flags, "-ca-root", old)}))
	s.eventually("the node is served by the CA", func() bool { return s.issuer(s.one, c.client.SPIFFEID("cluster.local")) == issuer })
	s.overBoth(func(s *story, network string) { s.reached(c.client.Place, network, c.server, 8080) })
}

// following is what a node says of its trust bundle.
func (s *story) following(n *lab.Node) (f struct {
	Generation      uint64
	Roots, Heard    int
	Connected       bool
	FederatedNumber int
	Federated       []struct {
		TrustDomain string
		Sequence    uint64
		Roots       int
	}
}) {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	s.must(json.Unmarshal(dump.Text["bundle"], &f))
	return f
}

// issuer is the serial number of what signed the certificate that a node holds.
func (s *story) issuer(n *lab.Node, id string) string {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var held []struct {
		Identity, State string
		CertChain       []struct{ SerialNumber string }
	}
	s.must(json.Unmarshal(dump.Text["certificates"], &held))
	for _, c := range held {
		if c.Identity == id && c.State == "Available" && len(c.CertChain) > 1 {
			return c.CertChain[1].SerialNumber
		}
	}
	return ""
}
