// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// near is a story whose two pods are on one node.
type near struct {
	*story
	neighbour *Neighbour
	far       atomic.Pointer[hbone.Listener] // where db's tunnels end
	stop      context.CancelFunc             // ends db's connections beside tunnels, as the end of its sandbox does
	done      chan struct{}                  // closed when they have ended
}

func tellNear(t *testing.T, appPort uint16, changes ...plot) *near {
	t.Helper()
	var neighbour atomic.Pointer[Neighbour]
	s := &near{done: make(chan struct{})}
	s.story = tell(t, appPort, append([]plot{func(s *story) {
		s.web.Local = func(d *workload.Destination) *Neighbour {
			if d.Peer.UID != "uid-db" {
				t.Errorf("asked for %v", d.Peer)
			}
			return neighbour.Load()
		}
	}}, changes...)...)
	s.far.Store(s.ln)
	s.neighbour = NewNeighbour(s.db.Pod, func(netip.Addr) *hbone.Listener { return s.far.Load() })
	var ctx context.Context
	ctx, s.stop = context.WithCancel(context.Background())
	go func() {
		defer close(s.done)
		s.neighbour.Serve(ctx)
	}()
	t.Cleanup(func() { s.stop(); <-s.done })
	eventually(t, "it takes connections", func() bool {
		s.neighbour.mu.Lock()
		defer s.neighbour.mu.Unlock()
		return s.neighbour.base != nil
	})
	neighbour.Store(s.neighbour)
	return s
}

func TestPodsOfOneNodeTalkBesideTheirTunnelAndBothSidesRecordIt(t *testing.T) {
	s := tellNear(t, echo(t, dbAddr))
	conn := s.talk()
	send(t, conn, " again")
	expect(t, conn, " again")
	eventually(t, "bytes are counted at both ends", func() bool {
		source, destination := connectionsOf(s.web, 1)[0], connectionsOf(s.db, 1)[0]
		return source.BytesSent == 11 && source.BytesRecv == 11 && destination.BytesSent == 11 && destination.BytesRecv == 11
	})
	source, destination := connectionsOf(s.web, 1)[0], connectionsOf(s.db, 1)[0]
	if source.Path != "local" || source.DstIdentity != sa("db").String() {
		t.Errorf("open connection %+v", source)
	}
	if destination.Path != "local" || destination.SrcIdentity != sa("web").String() {
		t.Errorf("open connection %+v", destination)
	}
	conn.CloseWrite()
	expectEOF(t, conn)
	for direction, b := range map[string]*bench{"outbound": s.web, "inbound": s.db} {
		has(t, b.record(OK), map[string]any{
			"level": "INFO", "msg": "connection complete", "direction": direction, "path": "local",
			"src.addr": conn.LocalAddr().String(), "src.workload": "web-0", "src.namespace": "shop", "src.identity": sa("web").String(),
			"dst.addr": s.app.String(), "dst.hbone_addr": nil, "dst.service": "db.shop.svc.cluster.local",
			"dst.workload": "db-0", "dst.namespace": "shop", "dst.identity": sa("db").String(),
			"bytes_sent": 11.0, "bytes_recv": 11.0,
		})
		for name, want := range map[string]string{
			"istio_tcp_connections_opened_total": "1", "istio_tcp_connections_closed_total": "1",
			"istio_tcp_received_bytes_total": "11", "istio_tcp_sent_bytes_total": "11",
		} {
			if got := b.metric(name, `connection_security_policy="mutual_tls"`, `destination_service_name="db"`); got != want {
				t.Errorf("%s of %s = %q, want %s", name, direction, got, want)
			}
		}
	}
	if d := <-s.db.dialled; d[0].Addr() != webAddr || d[0].Port() == 0 || d[1] != s.app {
		t.Errorf("the app was dialled from %v at %v; want the tunnel's peer and the app", d[0], d[1])
	}
	if n := s.ln.Stats(); n.Tunnels != 1 || n.Accepted != 0 {
		t.Errorf("%+v; want a tunnel and no stream", n)
	}
	s.talk()
	if n := s.dials.Load(); n != 1 {
		t.Errorf("%d tunnels for two connections", n)
	}
}

func TestEachDirectionBesideATunnelIsCountedByItself(t *testing.T) {
	s := tellNear(t, app(t, dbAddr, func(conn *net.TCPConn) {
		io.Copy(io.Discard, conn)
		io.WriteString(conn, "late")
	}))
	conn := s.dial()
	send(t, conn, "a question")
	conn.CloseWrite()
	expect(t, conn, "late")
	expectEOF(t, conn)
	has(t, s.web.record(OK), map[string]any{"bytes_sent": 10.0, "bytes_recv": 4.0})
	has(t, s.db.record(OK), map[string]any{"bytes_sent": 4.0, "bytes_recv": 10.0})
}

// The source's record says what a tunnel's peer would have told it.
func TestWhatIsRefusedBesideATunnelIsRefusedAsInIt(t *testing.T) {
	lock := policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}}}}
	for _, tc := range []struct {
		name     string
		port     func(t *testing.T) uint16
		change   plot
		web, db  Word
		policy   any
		explains string
	}{
		{"by policy", func(t *testing.T) uint16 { return echo(t, dbAddr) }, func(s *story) { s.db.policy.Replace(lock) },
			Denied, Denied, "AuthorizationPolicy shop/lock", "http status: 401 Unauthorized"},
		{"nobody listens", func(*testing.T) uint16 { return 1 }, nil, Dial, Dial, nil, "http status: 503 Service Unavailable"},
		{"the tunnels' own port", func(*testing.T) uint16 { return workload.HBONEPort }, nil, Dial, SelfCall, nil, "http status: 503"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tellNear(t, tc.port(t))
			if tc.change != nil {
				tc.change(s.story)
			}
			expectRefused(t, webAddr, s.to)
			has(t, s.db.record(tc.db), map[string]any{"direction": "inbound", "path": "local", "policy": tc.policy, "src.identity": sa("web").String()})
			record := s.web.record(tc.web)
			has(t, record, map[string]any{"direction": "outbound", "path": "local", "policy": nil})
			if got := record["error"].(string); !strings.Contains(got, tc.explains) {
				t.Errorf("error %q, want %q", got, tc.explains)
			}
		})
	}
}

// Law 1: what the tunnel's ends cannot prove, nothing beside it may do without.
func TestNothingGoesBesideATunnelThatDoesNotStand(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change plot
		word   Word
	}{
		{"another identity is there", func(s *story) { s.dbID = sa("legacy") }, TLS},
		{"no certificate", func(s *story) { s.noSVID.Store(true) }, Identity},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tellNear(t, echo(t, dbAddr), tc.change)
			expectRefused(t, webAddr, s.to)
			has(t, s.web.record(tc.word), map[string]any{"path": "local"})
			s.db.nobodyDialled()
		})
	}
}

func TestATunnelThatEndsElsewhereIsUsedItself(t *testing.T) {
	s := tellNear(t, echo(t, dbAddr))
	other := tell(t, echo(t, dbAddr))
	s.far.Store(other.ln)
	s.talk().CloseWrite()
	has(t, s.web.record(OK), map[string]any{"path": "tunnel", "dst.hbone_addr": s.app.String(), "dst.addr": "127.0.1.2:15008"})
	has(t, s.db.record(OK), map[string]any{"path": "tunnel"})
}

func TestConnectionsBesideATunnelEndForTheirReasons(t *testing.T) {
	for _, tc := range []struct {
		name    string
		end     func(s *near)
		web, db Word
	}{
		{"policy at the destination", func(s *near) {
			s.db.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{{Object: policy.Object{Namespace: "shop", Name: "lock"}}}})
			s.db.Recheck()
		}, Reset, PolicyChanged},
		{"the source", func(s *near) {
			for c := range s.web.live.all(outbound) {
				c.cancel(fail(PolicyChanged, errors.New("policy")))
			}
		}, PolicyChanged, Reset},
		{"the destination's sandbox", func(s *near) { s.stop() }, Reset, Drained},
		{"the tunnel", func(s *near) { s.ln.Close() }, Reset, Reset},
		{"the destination's certificate is denied", func(s *near) { s.ln.Retire(hbone.Denied) }, Denied, Denied},
		{"the source's certificate is denied", func(s *near) { s.web.Tunnels.Retire(hbone.Denied) }, Denied, Denied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := tellNear(t, echo(t, dbAddr))
			conn := s.talk()
			tc.end(s)
			expectReset(t, conn)
			s.web.record(tc.web)
			s.db.record(tc.db)
		})
	}
}

func TestConnectionsBesideATunnelEndWithTheirCertificates(t *testing.T) {
	s := tellNear(t, echo(t, dbAddr), func(s *story) { s.until = fiveSecondsOn() })
	conn := s.talk()
	expectReset(t, conn)
	s.web.record(Expired)
	s.db.record(Expired)
}

// A pod that leaves the mesh takes no new connections, and breaks none.
func TestANeighbourThatClosesLetsItsConnectionsEnd(t *testing.T) {
	s := tellNear(t, echo(t, dbAddr))
	conn := s.talk()
	s.neighbour.Close()
	expectRefusedOnceClosed(t, s)
	send(t, conn, "still")
	expect(t, conn, "still")
	select {
	case <-s.done:
		t.Error("Serve returned before its last connection ended")
	default:
	}
	conn.CloseWrite()
	expectEOF(t, conn)
	<-s.done
}

func expectRefusedOnceClosed(t *testing.T, s *near) {
	t.Helper()
	eventually(t, "no new ones are taken", func() bool {
		s.neighbour.mu.Lock()
		defer s.neighbour.mu.Unlock()
		return s.neighbour.base == nil
	})
	expectRefused(t, webAddr, s.to)
	s.web.record(Dial)
}

// endsUnseen is a context that has ended, of which nobody was told in time.
type endsUnseen struct{ context.Context }

func (endsUnseen) Err() error { return context.Canceled }

// A policy may change at the very moment in which all has arrived: both records say
// what came of it.
func TestBothRecordsAgreeWhereTheDestinationLeavesAfterAllHasArrived(t *testing.T) {
	client, app := tcpPair(t)
	server, far := tcpPair(t)
	client.CloseWrite()
	server.CloseWrite()
	destination := errors.New("no record")
	w := &besideTunnel{
		app: app, server: far, guard: new(hbone.Guard),
		to:     &connection{ctx: endsUnseen{context.Background()}},
		finish: func(err error) { destination = err },
	}
	source := errors.New("no record")
	over := make(chan struct{})
	w.carry(&connection{pod: new(Pod)}, func(err error) {
		source = err
		close(over)
	})
	<-over
	if destination != nil || source != nil {
		t.Errorf("the destination's record says %v, the source's %v; want none", destination, source)
	}
}
