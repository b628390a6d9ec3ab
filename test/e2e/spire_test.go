// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/lab"
)

// A004-2, A004-6, A004-10: SPIRE's own server and agents give the pods of two nodes their
// identities, instead of the CA. A ztunnel of another trust domain is told both names. While
// connections are open and others are made, all SVIDs are replaced twice, an agent and the
// server go and come back, and no connection notices. A pod without an entry is refused, and
// is told what an entry would have to select; it is served when the entry comes.
func TestSPIREGivesThePodsOfTwoNodesTheirIdentities(t *testing.T) {
	t.Parallel()
	programs := needSPIRE(t)
	s := tellAlone(t, lab.Options{}, "mesh")
	p := s.startSPIRE(programs)
	p.register(s.one, "client")
	p.register(s.two, "server")

	s.must(s.one.Ztunnel.Stop(s.ctx))
	s.must(s.one.LaunchZtunnel(s.ctx, lab.ZtunnelOptions{TrustDomain: "example.org", SPIRE: p.sockets(s.one)}))
	s.eventually("readiness names both trust domains", func() bool {
		status, body, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready")
		return err == nil && status == http.StatusServiceUnavailable && strings.Contains(body, "cluster.local") && strings.Contains(body, "example.org")
	})
	for _, n := range []*lab.Node{s.one, s.two} {
		s.must(n.Ztunnel.Stop(s.ctx))
		s.must(n.StartZtunnel(s.ctx, lab.ZtunnelOptions{SPIRE: p.sockets(n)}))
	}

	c := s.carried()
	client, server := c.client.SPIFFEID("cluster.local"), c.server.SPIFFEID("cluster.local")
	for n, id := range map[*lab.Node]string{s.one: client, s.two: server} {
		if roots := s.rootsHeld(n, id); len(roots) != 1 || !bytes.Equal(roots[0], p.root()) {
			t.Errorf("%s proves %s by other roots than SPIRE's: %d", n.Name, id, len(roots))
		}
	}
	replaced := func() func() bool {
		one, two := s.serial(s.one, client), s.serial(s.two, server)
		return func() bool { return s.serial(s.one, client) != one && s.serial(s.two, server) != two }
	}
	for range 2 {
		c.until("both SVIDs are replaced", replaced())
	}

	again := replaced()
	s.must(p.agents[s.two].Kill())
	c.until("the agent's absence is noticed", func() bool { return !s.following(s.two).Connected })
	p.startAgent(s.two)
	c.until("the agent is back, and SVIDs are replaced", func() bool { return s.following(s.two).Connected && again() })

	again = replaced()
	s.must(p.server.Kill())
	c.until("the server is away", func() bool { _, err := p.try("healthcheck"); return err != nil })
	p.startServer()
	c.until("the server is back, and SVIDs are replaced", again)

	late := s.pod(s.one, "late", nil)
	s.refused(late.Place, "tcp4", c.server, 8080)
	s.record(s.one, "direction", "outbound", "src.workload", "late", "result", "identity", "response_flags", "IDENTITY_ERROR")
	if why := s.whyNot(s.one, late.SPIFFEID("cluster.local")); !strings.Contains(why, "no registration entry") || !strings.Contains(why, "k8s:sa:late") {
		t.Errorf("a pod without an entry is told %q", why)
	}
	p.register(s.one, "late")
	s.eventually("the late entry's SVID", func() bool { return s.serial(s.one, late.SPIFFEID("cluster.local")) != "" })
	s.reached(late.Place, "tcp4", c.server, 8080)
}

// heldCertificate is what a node's dump says of an identity's certificate.
type heldCertificate struct {
	Identity, State string
	RootCerts       []struct{ PEM string }
	Renewal         struct{ Error string }
}

func (s *story) held(n *lab.Node, id string) heldCertificate {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var held []heldCertificate
	s.must(json.Unmarshal(dump.Text["certificates"], &held))
	for _, c := range held {
		if c.Identity == id {
			return c
		}
	}
	return heldCertificate{}
}

// rootsHeld are the roots that a node has for an identity, in DER.
func (s *story) rootsHeld(n *lab.Node, id string) (ders [][]byte) {
	s.Helper()
	for _, root := range s.held(n, id).RootCerts {
		text, err := base64.StdEncoding.DecodeString(root.PEM)
		s.must(err)
		block, _ := pem.Decode(text)
		if block == nil {
			s.Fatalf("a root of %s is no PEM: %q", id, text)
		}
		ders = append(ders, block.Bytes)
	}
	return ders
}

// whyNot is why a node has no certificate of an identity.
func (s *story) whyNot(n *lab.Node, id string) string {
	held := s.held(n, id)
	return held.State + " " + held.Renewal.Error
}
