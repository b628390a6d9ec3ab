// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/certs/certstest"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func sa(name string) spiffeid.ID {
	return spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + name)
}

// credential proves id and accepts the peers that expect allows.
func (s *story) credential(id spiffeid.ID, expect func(spiffeid.ID) error) hbone.Credential {
	config := certstest.Mutual(s.ca, s.ca.Leaf(id), expect)
	return hbone.Credential{Config: config, Until: func(tls.ConnectionState) time.Time { return s.until() }}
}

// story is an app in pod web that dials pod db, each behind its own proxies.
type story struct {
	t        *testing.T
	registry *workload.Registry
	ca       *certstest.Signer
	web, db  *bench
	to       netip.AddrPort                 // where steering leads web's app
	app      netip.AddrPort                 // of db
	from     netip.Addr                     // of web's tunnels
	dbID     spiffeid.ID                    // that db's listener proves
	until    func() time.Time               // end of all certificates; zero: none
	tunnels  atomic.Pointer[netip.AddrPort] // where web's lead: db's listener
	ln       *hbone.Listener
	dials    atomic.Int32
	noSVID   atomic.Bool
}

// plot changes a story before it begins.
type plot func(*story)

// tell starts both pods; the app in db listens at appPort.
func tell(t *testing.T, appPort uint16, changes ...plot) *story {
	t.Helper()
	s := &story{
		t: t, registry: registryOf(meshOf(appPort, 1)), ca: certstest.NewCA(),
		app: netip.AddrPortFrom(dbAddr, appPort), from: webAddr, dbID: sa("db"), until: func() time.Time { return time.Time{} },
	}
	s.web, s.db = newBench(t, s.registry, "web"), newBench(t, s.registry, "db")
	s.web.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return dbVIP, nil }
	s.web.Direct = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
		t.Error("a meshed peer was dialled in plaintext")
		return nil, errors.New("law 1")
	}
	for _, change := range changes {
		change(s)
	}
	s.startDB()
	pool := s.startPool()
	s.web.Tunnels = pool
	s.to = s.web.serve(webAddr, Outbound{s.web.Pod}.Serve)
	t.Cleanup(pool.Close) // before the proxies stop, or they would wait for its streams
	return s
}

func (s *story) startPool() *hbone.Pool {
	client := func(_ context.Context, key hbone.Key) (hbone.Credential, error) {
		if s.noSVID.Load() {
			return hbone.Credential{}, errors.New("no SVID yet")
		}
		return s.credential(sa("web"), func(peer spiffeid.ID) error {
			if peer != key.Dst {
				return fmt.Errorf("peer is %v, want %v", peer, key.Dst)
			}
			return nil
		}), nil
	}
	return hbone.NewPool(hbone.PoolConfig{
		From: []netip.Addr{s.from}, Credential: client,
		Dial: func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			s.dials.Add(1)
			if to != netip.AddrPortFrom(dbAddr, workload.HBONEPort) {
				s.t.Errorf("tunnel to %v", to)
			}
			dialer := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
			conn, err := dialer.DialContext(ctx, "tcp", s.tunnels.Load().String())
			if err != nil {
				return nil, err
			}
			return conn.(*net.TCPConn), nil
		},
	})
}

func (s *story) leadTunnelsTo(at netip.AddrPort) { s.tunnels.Store(&at) }

func (s *story) startDB() {
	ln := listen(s.t, dbAddr)
	s.leadTunnelsTo(socket.AddrPort(ln.Addr()))
	server := s.credential(s.dbID, func(spiffeid.ID) error { return nil })
	s.ln = hbone.NewListener(ln, hbone.ListenerConfig{
		Credential: func(context.Context) (hbone.Credential, error) { return server, nil },
		Refused:    Inbound{s.db.Pod}.Refused,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var both sync.WaitGroup
	both.Go(func() { s.ln.Run(ctx) })
	both.Go(func() {
		if err := (Inbound{s.db.Pod}).Serve(ctx, s.ln); err != nil {
			s.t.Errorf("Serve: %v", err)
		}
	})
	s.t.Cleanup(func() { cancel(); both.Wait() })
}

// dial is web's app dialling db.
func (s *story) dial() *net.TCPConn {
	s.t.Helper()
	conn := connect(s.t, webAddr, s.to)
	return conn
}

// talk is an app connection on which both ends have said something.
func (s *story) talk() *net.TCPConn {
	s.t.Helper()
	conn := s.dial()
	send(s.t, conn, "hello")
	expect(s.t, conn, "hello")
	return conn
}

func TestMeshedPodsTalkInATunnelAndBothSidesRecordIt(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	conn := s.talk()
	source := connectionsOf(s.web, 1)[0]
	if source.Path != "tunnel" || source.DstIdentity != sa("db").String() || source.Dst != s.app.String() {
		t.Errorf("open connection %+v", source)
	}
	// Istio's tools read what the app asked for, and where that leads from here.
	if source.OriginalDst != dbVIP || source.ActualDst.String() != "127.0.1.2:15008" || source.Protocol != "HBONE" {
		t.Errorf("open connection of the source %+v", source)
	}
	if c := connectionsOf(s.db, 1)[0]; c.OriginalDst != *s.tunnels.Load() || c.ActualDst != s.app || c.Protocol != "HBONE" {
		t.Errorf("open connection of the destination %+v", c)
	}
	for _, b := range []*bench{s.web, s.db} {
		if c := connectionsOf(b, 1)[0]; c.Tunnel == nil || c.Tunnel.Cipher == "" || c.Tunnel.Group == "" || c.Tunnel.PeerSerial == "" ||
			c.Tunnel.TCP.RTT == 0 || c.Service != "shop/db" || c.Age == "" {
			t.Errorf("open connection %+v in tunnel %+v", c, c.Tunnel)
		}
		eventually(t, "byte counters move while the connection is open", func() bool {
			return b.metric("istio_tcp_received_bytes_total") == "5" && b.metric("istio_tcp_sent_bytes_total") == "5"
		})
	}
	conn.CloseWrite()
	expectEOF(t, conn)

	has(t, s.web.record(OK), map[string]any{
		"level": "INFO", "msg": "connection complete", "direction": "outbound", "path": "tunnel",
		"scope": "access", "src.cluster": "Kubernetes", "dst.cluster": "Kubernetes",
		"src.addr": conn.LocalAddr().String(), "src.workload": "web-0", "src.namespace": "shop", "src.identity": sa("web").String(),
		"dst.addr": "127.0.1.2:15008", "dst.hbone_addr": s.app.String(), "dst.service": "db.shop.svc.cluster.local",
		"dst.workload": "db-0", "dst.namespace": "shop", "dst.identity": sa("db").String(),
		"bytes_sent": 5.0, "bytes_recv": 5.0,
	})
	has(t, s.db.record(OK), map[string]any{
		"level": "INFO", "msg": "connection complete", "direction": "inbound", "path": "tunnel",
		"src.workload": "web-0", "src.namespace": "shop", "src.identity": sa("web").String(),
		"dst.addr": s.tunnels.Load().String(), "dst.hbone_addr": s.app.String(), "dst.service": "db.shop.svc.cluster.local",
		"dst.workload": "db-0", "dst.namespace": "shop", "dst.identity": sa("db").String(),
		"bytes_sent": 5.0, "bytes_recv": 5.0,
	})
	if d := <-s.db.dialled; d[0].Addr() != webAddr || d[0].Port() == 0 || d[1] != s.app {
		t.Errorf("inner leg from %v to %v; want the tunnel's peer and the app", d[0], d[1])
	}
	for reporter, b := range map[string]*bench{"source": s.web, "destination": s.db} {
		labels := []string{`reporter="` + reporter + `"`, `connection_security_policy="mutual_tls"`,
			`source_principal="spiffe://cluster.local/ns/shop/sa/web"`, `destination_principal="spiffe://cluster.local/ns/shop/sa/db"`,
			`source_workload="web"`, `destination_workload="db"`, `destination_service_name="db"`, `response_flags="-"`}
		for name, want := range map[string]string{
			"istio_tcp_connections_opened_total": "1", "istio_tcp_connections_closed_total": "1",
			"istio_tcp_received_bytes_total": "5", "istio_tcp_sent_bytes_total": "5",
		} {
			if got := b.metric(name, labels...); got != want {
				t.Errorf("%s of the %s = %q, want %s", name, reporter, got, want)
			}
		}
		if got := b.metric("culvert_plaintext_connections_total"); got != "" {
			t.Errorf("plaintext counted at the %s", reporter)
		}
	}
}

// allConnections are the open ones, outbound first.
func allConnections(b *bench) []Connection {
	in, out, _ := b.Connections()
	return append(out, in...)
}

// connectionsOf waits until n connections are open.
func connectionsOf(b *bench, n int) []Connection {
	b.t.Helper()
	eventually(b.t, fmt.Sprintf("%d open connections", n), func() bool { return len(allConnections(b)) == n })
	return allConnections(b)
}

func TestTunnelledConnectionsKeepTheirHalvesApart(t *testing.T) {
	late := make(chan struct{})
	s := tell(t, app(t, dbAddr, func(conn *net.TCPConn) {
		if n, _ := io.Copy(io.Discard, conn); n != 5 { // to the client's half-close
			t.Errorf("the app got %d bytes", n)
		}
		<-late
		io.WriteString(conn, "late answer")
	}))
	conn := s.dial()
	send(t, conn, "hello")
	conn.CloseWrite()
	close(late)
	expect(t, conn, "late answer")
	expectEOF(t, conn)
	s.web.record(OK)
	s.db.record(OK)
}

func TestAResetCrossesTheTunnel(t *testing.T) {
	t.Run("of the server", func(t *testing.T) {
		s := tell(t, app(t, dbAddr, func(conn *net.TCPConn) {
			io.ReadFull(conn, make([]byte, 5))
			reset(conn)
		}))
		conn := s.dial()
		send(t, conn, "hello")
		expectReset(t, conn)
		has(t, s.web.record(Reset), map[string]any{"level": "INFO"})
		has(t, s.db.record(Reset), map[string]any{"level": "INFO"})
	})
	t.Run("of the client", func(t *testing.T) {
		ended := make(chan error, 1)
		s := tell(t, app(t, dbAddr, func(conn *net.TCPConn) {
			_, err := io.Copy(struct{ io.Writer }{conn}, conn)
			ended <- err
		}))
		reset(s.talk())
		if err := <-ended; err == nil {
			t.Error("the server's app saw an end of data")
		}
		s.web.record(Reset)
		s.db.record(Reset)
	})
}

func TestAPolicyThatRefusesAnswersDeniedAtBothEnds(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{
		{Object: policy.Object{Namespace: "shop", Name: "lock"}},
	}})
	expectRefused(t, webAddr, s.to)
	has(t, s.db.record(Denied), map[string]any{
		"level": "ERROR", "policy": "AuthorizationPolicy shop/lock", "src.identity": sa("web").String(), "path": "tunnel",
	})
	record := s.web.record(Denied)
	if got := record["error"].(string); !strings.Contains(got, "http status: 401 Unauthorized") {
		t.Errorf("error %q", got)
	}
	s.db.nobodyDialled()
}

func TestStrictDoesNotConcernTunnels(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	s.db.policy.Replace(strict())
	conn := s.talk()
	s.db.Recheck()
	send(t, conn, "again")
	expect(t, conn, "again")
}

func TestAPolicyChangeEndsATunnelledConnection(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	conn := s.talk()
	s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{
		{Object: policy.Object{Namespace: "shop", Name: "lock"}},
	}})
	s.db.Recheck()
	expectReset(t, conn)
	has(t, s.db.record(PolicyChanged), map[string]any{"policy": "AuthorizationPolicy shop/lock"})
	s.web.record(Reset)
}

func TestAPeerWithAnotherIdentityIsRefusedAndAskedOnce(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) {
		s.dbID = sa("legacy")
		s.web.Peers.first = time.Now() // everybody has only just joined: time for who does not answer
	})
	expectRefused(t, webAddr, s.to)
	record := s.web.record(TLS)
	has(t, record, map[string]any{"level": "ERROR", "dst.identity": nil, "src.identity": sa("web").String()})
	if got := s.dials.Load(); got != 1 {
		t.Errorf("dialled %d times", got)
	}
	has(t, s.db.record(TLS), map[string]any{"level": "WARN", "path": "tunnel", "src.identity": nil})
}

func TestWithoutACertificateNothingIsDialled(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) { s.noSVID.Store(true) })
	expectRefused(t, webAddr, s.to)
	if got := s.web.record(Identity)["error"].(string); !strings.Contains(got, "identity error: ") {
		t.Errorf("error %q", got)
	}
	if got := s.dials.Load(); got != 0 {
		t.Errorf("dialled %d times", got)
	}
}

// fiveSecondsOn is an end of all certificates, five seconds after the first handshake.
func fiveSecondsOn() func() time.Time {
	return sync.OnceValue(func() time.Time { return time.Now().Add(5 * time.Second) })
}

func TestStreamsEndWithTheirCertificates(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) { s.until = fiveSecondsOn() })
	expectReset(t, s.talk())
	// Each end has its own clock; who is first tells the other by a reset.
	words := []string{(<-s.web.records)["result"].(string), (<-s.db.records)["result"].(string)}
	if !slices.Contains(words, string(Expired)) {
		t.Errorf("words %v", words)
	}
}

func TestADrainedPodEndsItsStreams(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	conn := s.talk()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.ln.Drain(ctx)
	expectReset(t, conn)
	s.db.record(Drained)
}

func TestTunnelledBytesAreExactBothWaysAtOnce(t *testing.T) {
	size := 64 << 20
	if testing.Short() {
		size = 4 << 20
	}
	s := tell(t, app(t, dbAddr, func(conn *net.TCPConn) { exchange(t, conn, size) }))
	conn := s.dial()
	exchange(t, conn, size)
	has(t, s.web.record(OK), map[string]any{"bytes_sent": float64(size), "bytes_recv": float64(size)})
	has(t, s.db.record(OK), map[string]any{"bytes_sent": float64(size), "bytes_recv": float64(size)})
}

// exchange sends size bytes of a known pattern, and expects the same, at once.
func exchange(t *testing.T, conn *net.TCPConn, size int) {
	pattern := func(at int) byte { return byte(at ^ at>>8 ^ at>>16) }
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		buf := make([]byte, 70_001)
		for sent := 0; sent < size; {
			n := min(len(buf), size-sent)
			for i := range n {
				buf[i] = pattern(sent + i)
			}
			conn.SetDeadline(time.Now().Add(patience))
			if _, err := conn.Write(buf[:n]); err != nil {
				t.Error(err)
				return
			}
			sent += n
		}
		conn.CloseWrite()
	})
	buf := make([]byte, 64<<10)
	for at := 0; ; {
		conn.SetDeadline(time.Now().Add(patience))
		n, err := conn.Read(buf)
		for i := range n {
			if buf[i] != pattern(at+i) {
				t.Errorf("byte %d is wrong", at+i)
				return
			}
		}
		at += n
		if err != nil {
			if err != io.EOF || at != size {
				t.Errorf("%d bytes of %d: %v", at, size, err)
			}
			return
		}
	}
}
