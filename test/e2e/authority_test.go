// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/lab/agent"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
)

// A peer with a good certificate may ask for what it likes inside its tunnel.
// It gets the apps of the pod that the tunnel came to, and nothing else: no
// other pod, nobody's loopback, and not ztunnel itself.
func TestATunnelLeadsToTheAppsOfItsOwnPodOnly(t *testing.T) {
	s := tell(t, "mesh")
	client, server, other := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil), s.pod(s.two, "other", nil)
	s.serve(server.Place, agent.Echo, 8080)
	elsewhere := []*agent.Listener{s.serve(other.Place, agent.Echo, 8080), s.serve(s.two.Host, agent.Echo, 8080)}
	own := s.listeners(server)[0]
	pool := s.impersonate(client.SPIFFEID("cluster.local"))
	id := spiffeid.RequireFromString(server.SPIFFEID("cluster.local"))

	s.overBoth(func(s *story, network string) {
		otherFamily, loopback := "tcp6", netip.MustParseAddr("127.0.0.1")
		if network == "tcp6" {
			otherFamily, loopback = "tcp4", netip.IPv6Loopback()
		}
		open := func(target netip.AddrPort) (*hbone.Stream, error) {
			key := hbone.Key{Dst: id, Addr: server.At(network, 15008)}
			return pool.Open(s.ctx, key, hbone.Target{Authority: target})
		}
		stream, err := open(server.At(network, 8080))
		s.must(err)
		stream.Reset()
		s.record(s.two, "direction", "inbound", "dst.hbone_addr", server.At(network, 8080).String(),
			"src.identity", client.SPIFFEID("cluster.local"), "path", "tunnel")

		for _, wrong := range []struct {
			what   string
			target netip.AddrPort
			status int
		}{
			{"another pod", other.At(network, 8080), http.StatusBadRequest},
			{"the node", netip.AddrPortFrom(s.two.Addr(network), 8080), http.StatusBadRequest},
			{"loopback", netip.AddrPortFrom(loopback, 8080), http.StatusBadRequest},
			{"the pod's address of the other family", server.At(otherFamily, 8080), http.StatusBadRequest},
			{"the tunnel's own port", server.At(network, 15008), http.StatusServiceUnavailable},
			{"ztunnel's listener in the pod", own, http.StatusBadRequest},
			{"a port where nobody listens", server.At(network, 8081), http.StatusServiceUnavailable},
		} {
			stream, err := open(wrong.target)
			if err == nil {
				stream.Reset()
			}
			var status *hbone.StatusError
			if !errors.As(err, &status) || status.Code != wrong.status {
				s.Errorf("CONNECT to %s, %v: %v, want status %d", wrong.what, wrong.target, err, wrong.status)
			}
		}
		s.record(s.two, "direction", "inbound", "dst.hbone_addr", server.At(network, 15008).String(), "result", "self_call")
		s.reached(client.Place, network, server, 8080)
	})
	for _, ln := range elsewhere {
		if served, err := ln.Served(s.ctx); err != nil || len(served) > 0 {
			t.Errorf("a server elsewhere was given %v, %v", served, err)
		}
	}
}

// impersonate is a pool of tunnels from outside the cluster, with a
// certificate that the mesh's CA signed.
func (s *story) impersonate(id string) *hbone.Pool {
	s.Helper()
	cert, _, err := s.Identity.Mint(id, time.Minute)
	s.must(err)
	pool := hbone.NewPool(hbone.PoolConfig{
		Dial: func(ctx context.Context, _ netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			conn, err := s.Outside.DialUnsteered(ctx, to)
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
		Credential: func(context.Context, hbone.Key) (hbone.Credential, error) {
			return hbone.Credential{Config: &tls.Config{
				Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS13,
				InsecureSkipVerify: true, // who answers is of no interest here
			}}, nil
		},
	})
	s.Cleanup(func() { pool.Close() })
	return pool
}
