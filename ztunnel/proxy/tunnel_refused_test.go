// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestATunnelThatNobodyTakesIsRefusedAtOnceUnlessThePeerJustJoined(t *testing.T) {
	s := tell(t, echo(t, dbAddr))
	listening := *s.tunnels.Load()
	s.leadTunnelsTo(netip.MustParseAddrPort(env.Address(t))) // of nobody
	expectRefused(t, webAddr, s.to)
	has(t, s.web.record(Dial), map[string]any{"level": "ERROR", "path": "tunnel"})
	if got := s.dials.Load(); got != 1 {
		t.Errorf("dialled %d times", got)
	}

	s.web.Peers.mu.Lock()
	s.web.Peers.observe(workload.Mesh{}, time.Now())
	s.web.Peers.observe(s.registry.All(), time.Now()) // db joins
	s.web.Peers.mu.Unlock()
	conn := s.dial()
	eventually(t, "it is dialled again", func() bool { return s.dials.Load() >= 3 })
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(*s.tunnels.Load()))
	if err != nil {
		t.Fatal(err)
	}
	var forward sync.WaitGroup // its listener opens at last
	forward.Go(func() {
		in, err := ln.AcceptTCP()
		if err != nil {
			t.Error(err)
			return
		}
		out, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(webAddr, 0)), net.TCPAddrFromAddrPort(listening))
		if err != nil {
			t.Error(err)
			return
		}
		over := make(chan struct{})
		relay(t.Context(), in, out, &tally{}, nil, func(error) { close(over) })
		<-over
	})
	defer forward.Wait()
	defer s.web.Tunnels.Close()
	defer ln.Close()
	send(t, conn, "hello")
	expect(t, conn, "hello")
}

func TestStreamsToTheTunnelsOwnPortAreSelfCalls(t *testing.T) {
	s := tell(t, workload.HBONEPort)
	expectRefused(t, webAddr, s.to)
	has(t, s.db.record(SelfCall), map[string]any{"level": "WARN", "msg": "connection failed"})
	if got := s.web.record(Dial)["error"].(string); !strings.Contains(got, "http status: 503 ") {
		t.Errorf("error %q", got)
	}
	s.db.nobodyDialled()
}

func TestAnInboundPodThatTheRegistryDoesNotKnowAnswers503(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) {
		s.db.Self = func() (workload.Workload, bool) { return workload.Workload{}, false }
	})
	expectRefused(t, webAddr, s.to)
	s.db.record(Identity)
	s.web.record(Dial)
}

func TestAnAppBehindATunnelThatDoesNotListenAnswers503(t *testing.T) {
	s := tell(t, closedPort(t, dbAddr))
	expectRefused(t, webAddr, s.to)
	s.db.record(Dial)
	if got := s.web.record(Dial)["error"].(string); !strings.Contains(got, "http status: 503 Service Unavailable") {
		t.Errorf("error %q", got)
	}
}

func TestAnAddressGivesNoNameThatTheCertificateContradicts(t *testing.T) {
	s := tell(t, echo(t, dbAddr), func(s *story) { s.from = legacyAddr })
	s.talk().Close()
	has(t, s.db.record(OK), map[string]any{
		"src.identity": sa("web").String(), "src.workload": nil, "src.namespace": nil,
	})
}

func TestATunnelThatNeverBecameOneIsRecorded(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	Inbound{b.Pod}.Refused(netip.AddrPortFrom(ghostAddr, 4711), fmt.Errorf("%w: unknown authority", hbone.ErrTLS))
	has(t, b.record(TLS), map[string]any{
		"level": "WARN", "msg": "connection failed", "direction": "inbound", "path": "tunnel",
		"src.addr": "127.0.1.9:4711", "error": "tls: unknown authority",
		"dst.workload": "db-0", "dst.namespace": "shop",
	})
	if got := b.metric("culvert_connections_refused_total", `direction="inbound"`, `result="tls"`); got != "1" {
		t.Errorf("%q refused", got)
	}
}
