// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// dbBench is pod db, whose plaintext listener stands at an address that its
// app has, as after steering: a connection's own address is where it was going.
// inner says what an inner leg does, which in the kernel is not steered again.
func dbBench(t *testing.T, inner func(context.Context) (*net.TCPConn, error)) (*bench, netip.AddrPort, func()) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	b.Inner = func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
		b.dialled <- [2]netip.AddrPort{from, to}
		return inner(ctx)
	}
	to, stop := b.serveUntil(dbAddr, Passthrough{b.Pod}.Serve)
	t.Cleanup(stop)
	return b, to, stop
}

// toEcho dials an echoing app.
func toEcho(t *testing.T) func(context.Context) (*net.TCPConn, error) {
	addr := netip.AddrPortFrom(dbAddr, echo(t, dbAddr))
	return func(ctx context.Context) (*net.TCPConn, error) {
		return net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(addr))
	}
}

func TestPlaintextIsCarriedWherePolicyAllowsItAndLabelledSo(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	client := connect(t, legacyAddr, to)
	send(t, client, "hello")
	expect(t, client, "hello")

	if d := <-b.dialled; d[0] != socket.AddrPort(client.LocalAddr()) || d[1] != to {
		t.Errorf("inner leg from %v to %v; want the client's address and the original destination", d[0], d[1])
	}
	if got := allConnections(b); len(got) != 1 || got[0].Path != "passthrough" || got[0].Dst != to.String() || got[0].Protocol != "TCP" || got[0].Plaintext != "permissive" || got[0].TCP.RTT == 0 {
		t.Errorf("open connections %+v", got)
	}
	eventually(t, "byte counters move while the connection is open", func() bool {
		return b.metric("istio_tcp_received_bytes_total") == "5" && b.metric("istio_tcp_sent_bytes_total") == "5"
	})
	if got := b.metric("istio_tcp_sockets_open", `reporter="destination"`); got != "1" {
		t.Errorf("%s sockets open", got)
	}

	client.CloseWrite()
	expectEOF(t, client)
	record := b.record(OK)
	has(t, record, map[string]any{
		"level": "INFO", "msg": "connection complete", "direction": "inbound", "path": "passthrough",
		"src.addr": client.LocalAddr().String(), "src.workload": "legacy-0", "src.namespace": "shop", "src.identity": nil,
		"dst.addr": to.String(), "dst.hbone_addr": nil, "dst.workload": "db-0", "dst.namespace": "shop", "dst.identity": nil,
		"bytes_sent": 5.0, "bytes_recv": 5.0, "policy": nil,
	})
	if d, err := time.ParseDuration(record["duration"].(string)); err != nil || d < 0 {
		t.Errorf("duration %v", record["duration"])
	}
	for name, labels := range map[string]string{
		"istio_tcp_connections_opened_total":  `reporter="destination"`,
		"istio_tcp_connections_closed_total":  `connection_security_policy="unknown"`,
		"istio_tcp_received_bytes_total":      `source_principal="unknown"`,
		"culvert_plaintext_connections_total": `reason="permissive"`,
	} {
		if b.metric(name, labels) == "" {
			t.Errorf("%s{%s} is missing", name, labels)
		}
	}
	if got := allConnections(b); len(got) != 0 {
		t.Errorf("still open: %+v", got)
	}
}

func TestStrictResetsPlaintextAndNamesThePolicy(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	b.policy.Replace(strict())
	expectRefused(t, webAddr, to) // a meshed pod's address gives no right
	has(t, b.record(Denied), map[string]any{
		"level": "ERROR", "policy": "PeerAuthentication istio-system/default", "src.workload": "web-0", "src.identity": nil,
	})
	b.nobodyDialled()
	if got := b.metric("istio_tcp_connections_failed_total", `response_flags="DENY"`); got != "1" {
		t.Errorf("%s failed connections", got)
	}
	if got := b.metric("culvert_connections_refused_total", `direction="inbound",result="denied"`); got != "1" {
		t.Errorf("%s refused connections", got)
	}
}

func TestPlaintextToTheTunnelsOwnPortIsASelfCall(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	to := netip.AddrPortFrom(dbAddr, workload.HBONEPort)
	served, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	_, stop := b.serveUntil(dbAddr, func(ctx context.Context, other *net.TCPListener) error {
		other.Close()
		return Passthrough{b.Pod}.Serve(ctx, served)
	})
	defer stop()
	expectRefused(t, webAddr, to)
	has(t, b.record(SelfCall), map[string]any{"level": "WARN", "msg": "connection failed", "duration": nil})
	b.nobodyDialled()
}

func TestAnInnerLegThatWasSteeredBackIsASelfCall(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	b.IsInner = func(*net.TCPConn) bool { return true }
	to := b.serve(dbAddr, Passthrough{b.Pod}.Serve)
	expectRefused(t, legacyAddr, to)
	b.record(SelfCall)
	b.nobodyDialled()
}

func TestAnAppThatDoesNotListenIsReset(t *testing.T) {
	b, to, _ := dbBench(t, func(context.Context) (*net.TCPConn, error) {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	})
	expectRefused(t, legacyAddr, to)
	has(t, b.record(Dial), map[string]any{"level": "ERROR", "msg": "connection complete"})
}

func TestAResetIsNoFailureOfTheMesh(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	client := connect(t, legacyAddr, to)
	send(t, client, "hello")
	expect(t, client, "hello")
	reset(client)
	has(t, b.record(Reset), map[string]any{"level": "INFO"})
	for _, name := range []string{"istio_tcp_connections_failed_total", "culvert_connections_refused_total"} {
		if got := b.metric(name); got != "" {
			t.Errorf("%s = %s", name, got)
		}
	}
}

func TestTheBeginningOfAConnectionIsLoggedForDebugging(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	b.level.Set(slog.LevelDebug)
	client := connect(t, legacyAddr, to)
	send(t, client, "hello")
	expect(t, client, "hello")
	has(t, <-b.records, map[string]any{
		"level": "DEBUG", "msg": "connection opened", "direction": "inbound", "src.addr": client.LocalAddr().String(),
		"dst.workload": "db-0", "result": nil, "bytes_sent": nil,
	})
	client.Close()
	b.record(OK)
}

func TestPolicyChangeEndsWhatItNoLongerAllows(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	client := connect(t, legacyAddr, to)
	send(t, client, "hello")
	expect(t, client, "hello")

	b.policy.Replace(policy.Objects{}) // a change that still allows it
	b.Recheck()
	send(t, client, "still")
	expect(t, client, "still")

	b.policy.Replace(strict())
	b.Recheck()
	expectReset(t, client)
	record := b.record(PolicyChanged)
	has(t, record, map[string]any{"level": "ERROR", "policy": "PeerAuthentication istio-system/default"})
	if got := record["error"].(string); !strings.HasPrefix(got, "connection closed due to policy change: ") {
		t.Errorf("error %q", got)
	}
}

func TestAChangedLabelIsAChangedPolicy(t *testing.T) {
	registry := registryOf(meshOf(1, 1))
	b := newBench(t, registry, "db")
	inner := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
	b.policy.Replace(policy.Objects{PeerAuthentications: []policy.PeerAuthentication{{
		Object: policy.Object{Namespace: "shop", Name: "safe", Selector: policy.Selector{"safe": "yes"}}, Mode: policy.Strict,
	}}})
	client := connect(t, legacyAddr, b.serve(dbAddr, Passthrough{b.Pod}.Serve))
	send(t, client, "hello")
	expect(t, client, "hello")

	mesh := meshOf(1, 1)
	mesh.Workloads[1].Labels = workload.NewLabels(map[string]string{"safe": "yes"})
	registry.Replace(mesh)
	b.Recheck()
	expectReset(t, client)
	has(t, b.record(PolicyChanged), map[string]any{"policy": "PeerAuthentication shop/safe"})
}

// A change asks again about the connections that it can concern, and no other: a node
// may have thousands, and a cluster many changes a second.
func TestAChangeThatDoesNotConcernAPodAsksNothing(t *testing.T) {
	registry := registryOf(meshOf(1, 1))
	b := newBench(t, registry, "db")
	inner := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
	client := connect(t, legacyAddr, b.serve(dbAddr, Passthrough{b.Pod}.Serve))
	send(t, client, "hello")
	expect(t, client, "hello")
	asked := 0
	for c, allowed := range b.live.all(inbound) {
		b.live.add(c, func() error { asked++; return allowed() })
	}
	b.Recheck() // the first asks in any case

	deny := func(namespace string, rules ...policy.Rule) policy.AuthorizationPolicy {
		return policy.AuthorizationPolicy{Object: policy.Object{Namespace: namespace, Name: "deny"}, Action: policy.Deny, Rules: rules}
	}
	port := policy.Rule{{{Ports: []uint16{1}}}}
	ours, others := deny("shop", port), deny("bank", policy.Rule{})
	for _, step := range []struct {
		name  string
		now   []policy.AuthorizationPolicy
		asked bool
	}{
		{"another namespace's policy comes", []policy.AuthorizationPolicy{others}, false},
		{"it goes, and ours comes", []policy.AuthorizationPolicy{ours}, true},
		{"another namespace's comes, and ours stays", []policy.AuthorizationPolicy{others, ours}, false},
		{"ours changes", []policy.AuthorizationPolicy{others, deny("shop", port, policy.Rule{{{Ports: []uint16{2}}}})}, true},
		{"ours goes", []policy.AuthorizationPolicy{others}, true},
		{"nothing changes", []policy.AuthorizationPolicy{others}, false},
	} {
		asked = 0
		b.policy.Replace(policy.Objects{AuthorizationPolicies: step.now})
		registry.Replace(meshOf(1, 1)) // as with each snapshot
		b.Recheck()
		if (asked > 0) != step.asked {
			t.Errorf("%s: asked about %d connections", step.name, asked)
		}
	}
	send(t, client, "still")
	expect(t, client, "still")
	b.policy.Replace(policy.Objects{AuthorizationPolicies: []policy.AuthorizationPolicy{deny("shop", policy.Rule{})}})
	b.Recheck()
	expectReset(t, client)
	has(t, b.record(PolicyChanged), map[string]any{"policy": "AuthorizationPolicy shop/deny"})
}

// However a change of policy falls between the steps of a new connection, one
// that is carried after both is allowed by the policy after the change.
func TestNoConnectionSlipsThroughAChangeOfPolicy(t *testing.T) {
	b, to, _ := dbBench(t, toEcho(t))
	rounds := 100
	if testing.Short() {
		rounds = 20
	}
	for range rounds {
		b.policy.Replace(policy.Objects{})
		var wg sync.WaitGroup
		start := make(chan struct{})
		wg.Go(func() {
			<-start
			b.policy.Replace(strict())
			b.Recheck()
		})
		const clients = 4
		for range clients {
			wg.Go(func() { expectRefused(t, legacyAddr, to) })
		}
		close(start)
		wg.Wait()
		for range clients {
			if r := <-b.records; r["result"] != "denied" && r["result"] != "policy_changed" {
				t.Fatalf("record %v", r)
			}
		}
		for len(b.dialled) > 0 {
			<-b.dialled
		}
	}
}

func TestADrainLetsConnectionsEndBeforeItForcesThem(t *testing.T) {
	b, to, stop := dbBench(t, toEcho(t))
	b.Drain = 6 * time.Second // the polite one ends within it
	polite, stubborn := connect(t, legacyAddr, to), connect(t, legacyAddr, to)
	for _, c := range []*net.TCPConn{polite, stubborn} {
		send(t, c, "hello")
		expect(t, c, "hello")
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	eventually(t, "new connections are refused", func() bool {
		conn, err := net.DialTCP("tcp", nil, net.TCPAddrFromAddrPort(to))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	send(t, polite, "bye")
	expect(t, polite, "bye")
	polite.CloseWrite()
	expectEOF(t, polite)
	b.record(OK)
	expectReset(t, stubborn)
	<-stopped
	for {
		record := <-b.records // those that got in between are drained as well
		if record["src.addr"] == stubborn.LocalAddr().String() {
			has(t, record, map[string]any{"result": "drained", "error": "connection closed due to connection drain"})
			return
		}
	}
}

func TestAClosedListenerLeavesConnectionsAlone(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, 1)), "db")
	inner := toEcho(t)
	b.Inner = func(ctx context.Context, _, _ netip.AddrPort) (*net.TCPConn, error) { return inner(ctx) }
	ln := listen(t, dbAddr)
	done := make(chan error, 1)
	go func() { done <- Passthrough{b.Pod}.Serve(t.Context(), ln) }()
	client := connect(t, legacyAddr, socket.AddrPort(ln.Addr()))
	send(t, client, "hello")
	expect(t, client, "hello")
	ln.Close() // the pod leaves the mesh
	send(t, client, "again")
	expect(t, client, "again")
	select {
	case <-done:
		t.Fatal("Serve returned while a connection was open")
	default:
	}
	client.Close()
	if err := <-done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	b.record(OK)
}

func TestAPodIsWaitedForUntilTheRegistryKnowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		registry := workload.NewRegistry(nil)
		p := &Pod{Registry: registry, Self: func() (workload.Workload, bool) { return registry.ByUID("uid-db") }}
		start := time.Now()
		if _, err := p.self(t.Context(), func() {}); wordOf(err) != Identity {
			t.Errorf("got %v", err)
		}
		if waited := time.Since(start); waited != selfTimeout {
			t.Errorf("waited %v", waited)
		}
		time.AfterFunc(time.Second, func() { registry.Replace(meshOf(1, 1)) })
		if w, err := p.self(t.Context(), func() {}); err != nil || w.Name != "db-0" {
			t.Errorf("got %v, %v", w, err)
		}
	})
}
