// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/test/lab/capture"
)

// shop is a lab with a meshed namespace, a client on node1 and an echo server
// on node2, port 8080.
func shop(t *testing.T) (l *lab.Lab, client, server *lab.Pod) {
	t.Helper()
	l = newLab(t, lab.Options{})
	must(t, l.Namespace("shop", map[string]string{"culvert.dev/mesh": "enabled"}))
	client = newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "client", ServiceAccount: "client"})
	server = newPod(t, l.Nodes[1], lab.PodSpec{Namespace: "shop", Name: "server", ServiceAccount: "server"})
	_, err := server.Serve(t.Context(), agent.Echo, 8080)
	must(t, err)
	return l, client, server
}

func TestAMeshCarriesItsPodsAndSaysSo(t *testing.T) {
	l, client, server := shop(t)
	ctx := t.Context()
	must(t, errors.Join(client.AwaitEnrolled(ctx), server.AwaitEnrolled(ctx), client.Check(ctx)))
	must(t, errors.Join(l.Nodes[0].Status(ctx), l.Nodes[0].GC(ctx), client.Check(ctx)))
	for _, network := range []string{"tcp4", "tcp6"} {
		c, err := l.Wire.Capture(ctx)
		must(t, err)
		must(t, client.Ping(ctx, network, server.At(network, 8080), "hello"))
		record, err := l.Nodes[0].Access(ctx, func(r lab.Record) bool { return r.AddrPort("src.addr").Addr() == client.At(network, 0).Addr() })
		must(t, err)
		if record.Get("result") != "ok" || record.Get("dst.identity") != server.SPIFFEID("cluster.local") {
			t.Errorf("%s: record %v", network, record)
		}
		// Of the tunnel before, an acknowledgement may be late.
		tunnels, err := c.Flows(func(f capture.Flow) bool { return f.Opened && f.Server.Port() == 15008 })
		must(t, err)
		if len(tunnels) != 1 || tunnels[0].TLS().Version != tls.VersionTLS13 {
			t.Errorf("%s: tunnels on the wire: %v", network, tunnels)
		} else if hello := tunnels[0].TLS(); hello.Group != tls.X25519MLKEM768 { // C.5: a key exchange that a quantum computer does not break
			t.Errorf("%s: the group on the wire is %v of %v", network, hello.Group, hello.Offered)
		}
		must(t, c.Stop())
	}
	must(t, server.SetLabel("culvert.dev/mesh", "disabled"))
	must(t, server.AwaitOutside(ctx))
	must(t, l.Close())
	if found := left(t, filepath.Base(l.Dir())); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestANodeThatBelievesAnotherIdentityRefuses(t *testing.T) {
	l, client, server := shop(t)
	ctx := t.Context()
	object, err := server.As("another")
	must(t, err)
	must(t, l.Nodes[0].Believe(object))
	must(t, l.Settle(ctx))
	if err := client.Ping(ctx, "tcp4", server.At("tcp4", 8080), "hello"); err == nil {
		t.Error("the wrong identity was accepted")
	}
	must(t, server.SetLabel("version", "2")) // ends what node1 believes
	must(t, l.Settle(ctx))
	if err := client.Ping(ctx, "tcp4", server.At("tcp4", 8080), "hello"); err != nil {
		t.Errorf("the right identity is refused: %v", err)
	}
}

func TestAKilledZtunnelRefusesAndARestartedOneServes(t *testing.T) {
	l, client, server := shop(t)
	ctx := t.Context()
	to := server.At("tcp4", 8080)
	must(t, client.Ping(ctx, "tcp4", to, "hello"))
	must(t, l.Nodes[0].Ztunnel.Kill())
	if err := client.Ping(ctx, "tcp4", to, "hello"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("without ztunnel: %v", err)
	}
	must(t, l.Nodes[0].StartZtunnel(ctx, lab.ZtunnelOptions{}))
	must(t, client.AwaitEnrolled(ctx))
	must(t, client.Ping(ctx, "tcp4", to, "hello"))
	must(t, l.Nodes[0].Ztunnel.Stop(ctx))
}

func TestAMintedIdentityOpensATunnel(t *testing.T) {
	l, _, server := shop(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cert, roots, err := l.Identity.Mint("spiffe://cluster.local/ns/shop/sa/client", time.Minute)
	must(t, err)
	raw, err := l.Outside.DialUnsteered(ctx, netip.AddrPortFrom(server.IP4, 15008))
	must(t, err)
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{
		Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify: true, // crypto/tls knows no SPIFFE IDs; verified below
	})
	must(t, conn.HandshakeContext(ctx))
	chain := conn.ConnectionState().PeerCertificates
	intermediates := x509.NewCertPool()
	for _, c := range chain[1:] {
		intermediates.AddCert(c)
	}
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates})
	must(t, err)
	id, err := spiffeid.FromURI(chain[0].URIs[0])
	must(t, err)
	if id.String() != server.SPIFFEID("cluster.local") {
		t.Errorf("the peer is %v", id)
	}
}
