// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func TestWithoutTheCAOnlyUnknownAccountsWait(t *testing.T) {
	t.Parallel()
	s := tellAlone(t, lab.Options{}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(client.Place, agent.Echo, 8080)
	s.serve(server.Place, agent.Echo, 8080)
	s.eventually("the first certificates", func() bool {
		return s.holds(s.one, client.SPIFFEID("cluster.local")) && s.holds(s.two, server.SPIFFEID("cluster.local"))
	})
	s.must(s.Identity.Stop(s.ctx))

	second := s.pod(s.one, "second", func(p *lab.PodSpec) { p.ServiceAccount = "client" })
	stranger := s.pod(s.one, "stranger", nil)
	s.overBoth(func(s *story, network string) {
		for _, from := range []*lab.Pod{client, second} {
			s.reached(from.Place, network, server, 8080)
			s.reached(server.Place, network, client, 8080)
		}
	})
	start := time.Now()
	err := stranger.Ping(s.ctx, "tcp4", server.At("tcp4", 8080), "hello")
	if took := time.Since(start); !errors.Is(err, syscall.ECONNRESET) || took < 4*time.Second || took > 12*time.Second {
		t.Errorf("a pod without a certificate: %v after %v, want a reset after 5 s", err, took)
	}
	s.record(s.one, "direction", "outbound", "src.workload", "stranger", "result", "identity", "response_flags", "IDENTITY_ERROR")
	if status, body, err := s.one.HTTPGet(s.ctx, "http://127.0.0.1:15021/healthz/ready"); status != http.StatusOK {
		t.Errorf("readiness: %d %s, %v", status, body, err)
	}

	s.must(s.Identity.Start(s.ctx))
	s.eventually("the CA's return is noticed", func() bool { return s.holds(s.one, stranger.SPIFFEID("cluster.local")) })
	s.overBoth(func(s *story, network string) { s.reached(stranger.Place, network, server, 8080) })
}

func TestConnectionsOutliveRotationsAndEndWithTheLastCertificate(t *testing.T) {
	t.Parallel()
	const ttl = 25 * time.Second
	rotations := 2
	if testing.Short() {
		rotations = 1
	}
	s := tellAlone(t, lab.Options{TTL: ttl}, "mesh")
	client, server := s.pod(s.one, "client", nil), s.pod(s.two, "server", nil)
	s.serve(server.Place, agent.Echo, 8080)
	var open []*agent.Conn
	for _, network := range []string{"tcp4", "tcp6"} {
		conn, err := client.Dial(s.ctx, network, server.At(network, 8080))
		s.must(err)
		open = append(open, conn)
	}
	start := time.Now()
	var ours, theirs []string
	for range every(t, time.Second, 3*ttl) {
		for _, conn := range open {
			if err := conn.Ping(s.ctx, "still here"); err != nil {
				t.Fatalf("to %v, after %v and certificates %v, %v: %v", conn.Peer(), time.Since(start), ours, theirs, err)
			}
		}
		ours = append(ours, s.serial(s.one, client.SPIFFEID("cluster.local")))
		theirs = append(theirs, s.serial(s.two, server.SPIFFEID("cluster.local")))
		ours, theirs = slices.Compact(ours), slices.Compact(theirs)
		if len(ours) > rotations && len(theirs) > rotations && (testing.Short() || time.Since(start) > ttl+time.Second) {
			break
		}
	}
	if len(ours) <= rotations || len(theirs) <= rotations {
		t.Fatalf("certificates after %v: %v, %v", time.Since(start), ours, theirs)
	}
	t.Logf("%v and %d, %d certificates later the connections are alive", time.Since(start), len(ours)-1, len(theirs)-1)
	if testing.Short() {
		return
	}

	s.must(s.Identity.Kill())
	start = time.Now()
	for range every(t, 200*time.Millisecond, 2*ttl) {
		open = slices.DeleteFunc(open, func(conn *agent.Conn) bool {
			err := conn.Ping(s.ctx, "still here")
			if err != nil && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE) {
				t.Errorf("to %v: %v, want a reset", conn.Peer(), err)
			}
			return err != nil
		})
		if len(open) == 0 {
			break
		}
	}
	if took := time.Since(start); took < ttl/4 || took > ttl {
		t.Errorf("without a CA connections ended after %v, want between the margin of renewal and %v", took, ttl)
	}
	for _, n := range s.Nodes {
		s.record(n, "dst.workload", "server", "path", "tunnel", "result", "expired", "response_flags", "IDENTITY_ERROR")
	}
	for range every(t, 200*time.Millisecond, ttl) { // the certificate that ended first may be either
		if !s.holds(s.one, client.SPIFFEID("cluster.local")) {
			break
		}
	}
	// The first round may share a handshake that began while the client's certificate still
	// held, and end with that: as `tls`, if the server's was the first to expire.
	for range 2 {
		var both sync.WaitGroup
		for _, network := range []string{"tcp4", "tcp6"} {
			both.Go(func() { s.refused(client.Place, network, server, 8080) })
		}
		both.Wait()
	}
	for _, network := range []string{"tcp4", "tcp6"} {
		s.record(s.one, "direction", "outbound", "dst.hbone_addr", server.At(network, 8080).String(), "result", "identity")
	}

	s.must(s.Identity.Start(s.ctx))
	s.eventually("certificates are issued again", func() bool {
		return s.holds(s.one, client.SPIFFEID("cluster.local")) && s.holds(s.two, server.SPIFFEID("cluster.local"))
	})
	s.overBoth(func(s *story, network string) { s.reached(client.Place, network, server, 8080) })
}

// every yields at once and then at each interval, until limit.
func every(t *testing.T, interval, limit time.Duration) func(yield func(time.Time) bool) {
	return func(yield func(time.Time) bool) {
		tick := time.NewTicker(interval)
		defer tick.Stop()
		end := time.Now().Add(limit)
		for now := time.Now(); now.Before(end) && yield(now); {
			select {
			case now = <-tick.C:
			case <-t.Context().Done():
				return
			}
		}
	}
}

// serial is the number of the node's certificate for id.
func (s *story) serial(n *lab.Node, id string) string {
	s.Helper()
	dump, err := n.Dump(s.ctx)
	s.must(err)
	var held []struct {
		Identity  string
		CertChain []struct{ SerialNumber string }
	}
	s.must(json.Unmarshal(dump.Text["certificates"], &held))
	for _, c := range held {
		if c.Identity == id && len(c.CertChain) > 0 {
			return c.CertChain[0].SerialNumber
		}
	}
	return ""
}
