// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/hbone"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestADestinationOutsideTheMeshIsReachedPlainlyAndLabelledSo(t *testing.T) {
	b := newBench(t, registryOf(meshOf(1, echo(t, legacyAddr))), "web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return legacyVIP, nil }
	b.Bound = func(*net.TCPConn) netip.Addr { return webAddr }
	app := connect(t, webAddr, b.serve(webAddr, Outbound{b.Pod}.Serve))
	send(t, app, "hello")
	expect(t, app, "hello")
	eventually(t, "byte counters move while the connection is open", func() bool {
		return b.metric("istio_tcp_received_bytes_total") == "5" && b.metric("istio_tcp_sent_bytes_total") == "5"
	})
	app.CloseWrite()
	expectEOF(t, app)

	dialled := <-b.dialled
	has(t, b.record(OK), map[string]any{
		"level": "INFO", "msg": "connection complete", "direction": "outbound", "path": "passthrough",
		"src.addr": app.LocalAddr().String(), "src.workload": "web-0", "src.namespace": "shop", "src.identity": nil,
		"dst.addr": dialled[1].String(), "dst.service": "legacy.shop.svc.cluster.local",
		"dst.workload": "legacy-0", "dst.namespace": "shop", "dst.identity": nil, "dst.hbone_addr": nil,
		"bytes_sent": 5.0, "bytes_recv": 5.0,
	})
	if dialled[0].Addr() != webAddr || dialled[1].Addr() != legacyAddr {
		t.Errorf("dialled %v from %v", dialled[1], dialled[0])
	}
	if got := b.metric("culvert_plaintext_connections_total", `direction="outbound"`, `reason="not_meshed"`); got != "1" {
		t.Errorf("%q plaintext connections", got)
	}
	if got := b.metric("istio_tcp_connections_opened_total", `reporter="source"`, `source_workload="web"`,
		`destination_service_name="legacy"`, `connection_security_policy="unknown"`, `source_principal="unknown"`,
		`source_cluster="Kubernetes"`); got != "1" {
		t.Errorf("%q opened connections", got)
	}
}

// What leads to a pod of the mesh goes in a tunnel; the rest is counted by what
// it is.
func TestPlaintextToNodesIsCountedByItsReason(t *testing.T) {
	node := netip.MustParseAddr("192.0.2.9")
	for _, row := range []struct {
		port   uint16
		reason string
	}{{30080, "node_port"}, {10250, "node"}} {
		mesh := meshOf(1, 1)
		mesh.Nodes = []workload.Node{{Name: "n", Addrs: []netip.Addr{node}}}
		b := newBench(t, registryOf(mesh), "web")
		b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPortFrom(node, row.port), nil }
		to := netip.AddrPortFrom(legacyAddr, echo(t, legacyAddr))
		direct := b.Direct
		b.Direct = func(ctx context.Context, from netip.Addr, _ netip.AddrPort) (*net.TCPConn, error) {
			return direct(ctx, from, to)
		}
		app := connect(t, webAddr, b.serve(webAddr, Outbound{b.Pod}.Serve))
		send(t, app, "hello")
		expect(t, app, "hello")
		app.CloseWrite()
		expectEOF(t, app)
		has(t, b.record(OK), map[string]any{"path": "passthrough", "dst.addr": netip.AddrPortFrom(node, row.port).String()})
		if got := b.metric("culvert_plaintext_connections_total", `direction="outbound"`, `reason="`+row.reason+`"`); got != "1" {
			t.Errorf("%q connections with reason %s", got, row.reason)
		}
	}
}

func TestAPodReachesItselfThroughItsService(t *testing.T) {
	mesh := meshOf(1, 1)
	mesh.Services = append(mesh.Services, service("web", webVIP, netip.AddrPortFrom(webAddr, echo(t, webAddr))))
	b := newBench(t, registryOf(mesh), "web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return webVIP, nil }
	b.IsOwn = func(addr netip.Addr) bool { return addr == webAddr }
	app := connect(t, webAddr, b.serve(webAddr, Outbound{b.Pod}.Serve))
	send(t, app, "hello")
	expect(t, app, "hello")
	app.CloseWrite()
	expectEOF(t, app)

	id := "spiffe://cluster.local/ns/shop/sa/web"
	has(t, b.record(OK), map[string]any{
		"direction": "outbound", "path": "local", "src.workload": "web-0", "dst.workload": "web-0",
		"src.identity": id, "dst.identity": id, "dst.service": "web.shop.svc.cluster.local", "dst.hbone_addr": nil,
	})
	if dialled := <-b.dialled; dialled[0].Addr().IsValid() || dialled[1].Addr() != webAddr {
		t.Errorf("dialled %v from %v; want the kernel's choice, as the app left it", dialled[1], dialled[0])
	}
	if got := b.metric("culvert_plaintext_connections_total", `direction="outbound"`); got != "" {
		t.Errorf("%s plaintext connections, though none left the pod", got)
	}
}

// Its sandbox was made anew, under the same UID and with another address, and
// the registry does not know yet.
func TestAPodsFormerAddressIsNotItself(t *testing.T) {
	mesh := meshOf(1, 1)
	mesh.Services = append(mesh.Services, service("web", webVIP, netip.AddrPortFrom(webAddr, echo(t, webAddr))))
	b := newBench(t, registryOf(mesh), "web")
	b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return webVIP, nil }
	b.Tunnels = hbone.NewPool(hbone.PoolConfig{
		Credential: func(context.Context, hbone.Key) (hbone.Credential, error) {
			return hbone.Credential{}, errors.New("none here")
		},
	})
	t.Cleanup(b.Tunnels.Close)
	now := netip.MustParseAddr("127.0.1.4")
	expectRefused(t, now, b.serve(now, Outbound{b.Pod}.Serve))
	has(t, b.record(Identity), map[string]any{"path": "tunnel", "dst.hbone_addr": mesh.Services[3].Ports[0].Endpoints[0].Addr.String()})
	b.nobodyDialled()
}

func TestOutboundRefusalsSayWhy(t *testing.T) {
	nobody := pod("nobody", ghostAddr, true)
	nobody.ID = spiffeid.ID{}
	for _, row := range []struct {
		name   string
		mesh   workload.Mesh
		dst    netip.AddrPort
		change func(*bench)
		word   Word
		fields map[string]any
	}{{
		name: "nobody recorded where it was going",
		mesh: meshOf(1, 1),
		change: func(b *bench) {
			b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return netip.AddrPort{}, errors.New("no entry") }
		},
		word: NoOriginalDst, fields: map[string]any{"level": "WARN", "msg": "connection failed", "dst.addr": nil},
	}, {
		name: "an address of the mesh that nobody has",
		mesh: meshOf(1, 1), dst: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), 80),
		change: func(b *bench) {
			cidr := netip.MustParsePrefix("10.0.0.0/8")
			b.Registry = workload.NewRegistry([]netip.Prefix{cidr})
			b.Registry.Replace(meshOf(1, 1))
		},
		word: UnknownPeer, fields: map[string]any{"level": "WARN", "dst.addr": "10.0.0.1:80", "src.workload": "web-0"},
	}, {
		name: "a service without endpoints",
		mesh: meshOf(1, 1), dst: emptyVIP,
		word: Dial, fields: map[string]any{"level": "WARN", "dst.addr": emptyVIP.String()},
	}, {
		name: "loopback",
		mesh: meshOf(1, 1), dst: netip.MustParseAddrPort("127.0.0.1:80"),
		word: SelfCall, fields: map[string]any{"error": "attempted recursive call to ourselves"},
	}, {
		name: "loopback, version 6",
		mesh: meshOf(1, 1), dst: netip.MustParseAddrPort("[::1]:80"),
		word: SelfCall,
	}, {
		name: "a meshed pod without an identity",
		mesh: workload.Mesh{
			Workloads: workload.Pack(pod("web", webAddr, true), nobody),
			Services:  []workload.Service{service("nobody", dbVIP, netip.AddrPortFrom(ghostAddr, 80))},
		}, dst: dbVIP,
		word: Denied, fields: map[string]any{"level": "ERROR", "dst.workload": "nobody-0", "path": "tunnel"},
	}, {
		name: "a host outside that does not answer",
		mesh: meshOf(1, 1), dst: netip.MustParseAddrPort("192.0.2.1:80"),
		change: func(b *bench) {
			b.Direct = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
				return nil, syscall.ECONNREFUSED
			}
		},
		word: Dial, fields: map[string]any{"level": "ERROR", "dst.addr": "192.0.2.1:80", "path": "passthrough"},
	}, {
		name: "no descriptor left for the other leg",
		mesh: meshOf(1, 1), dst: netip.MustParseAddrPort("192.0.2.1:80"),
		change: func(b *bench) {
			b.Direct = func(context.Context, netip.Addr, netip.AddrPort) (*net.TCPConn, error) {
				return nil, fmt.Errorf("socket: %w", syscall.EMFILE)
			}
		},
		word: Limit,
	}} {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t, registryOf(row.mesh), "web")
			b.OriginalDst = func(*net.TCPConn) (netip.AddrPort, error) { return row.dst, nil }
			if row.change != nil {
				row.change(b)
			}
			to := b.serve(webAddr, Outbound{b.Pod}.Serve)
			expectRefused(t, webAddr, to)
			has(t, b.record(row.word), row.fields)
			b.nobodyDialled()
			if last := b.LastRefused(); len(last) != 1 || last[0].Result != row.word || last[0].Source.Pod != "web-0" || last[0].Error == "" ||
				row.word != NoOriginalDst && last[0].Asked != row.dst {
				t.Errorf("the last refused: %+v", last)
			}
		})
	}
}

func TestANewcomerIsGivenTime(t *testing.T) {
	registry := registryOf(meshOf(1, 1))
	p := NewPeers(registry)
	start := time.Unix(1000, 0)
	db := pod("db", dbAddr, true)
	if got := p.patience(&db, start); got != patientFor {
		t.Errorf("not observed yet: %v", got)
	}
	p.observe(registry.All(), start)
	p.observe(registry.All(), start.Add(4*time.Second)) // another snapshot, the same pod
	if got := p.patience(&db, start.Add(4*time.Second)); got != 6*time.Second {
		t.Errorf("after 4 s: %v", got)
	}
	if got := p.patience(&db, start.Add(time.Minute)); got != 0 {
		t.Errorf("after a minute: %v", got)
	}
	out := meshOf(1, 1)
	out.Workloads[1].Meshed = false
	p.observe(out, start.Add(time.Minute))
	p.observe(registry.All(), start.Add(2*time.Minute)) // labelled again
	if got := p.patience(&db, start.Add(2*time.Minute)); got != patientFor {
		t.Errorf("labelled again: %v", got)
	}
}

func TestAServiceNameOfAPeerIsBelievedOnlyIfTheTargetIsBehindIt(t *testing.T) {
	registry := registryOf(meshOf(5432, 80))
	p := NewPeers(registry)
	p.observe(registry.All(), time.Now())
	for host, want := range map[string]bool{
		"db.shop.svc.cluster.local": true, "legacy.shop.svc.cluster.local": false, "db.other.svc.cluster.local": false, "": false,
	} {
		if got := p.service(host, netip.AddrPortFrom(dbAddr, 5432)); (got != nil) != want {
			t.Errorf("%q: %v", host, got)
		}
	}
}

func TestTheHeaderDescribesTheSourceAsIstioDoes(t *testing.T) {
	web := pod("web", webAddr, true)
	db := service("db", dbVIP)
	h := header(baggage("Kubernetes", &web), netip.MustParseAddrPort("10.0.0.1:4711"), &db)
	if want := "k8s.cluster.name=Kubernetes,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v1"; h.Baggage != want {
		t.Errorf("baggage %s\nwant    %s", h.Baggage, want)
	}
	if want := `for="10.0.0.1:4711";host=db.shop.svc.cluster.local`; h.Forwarded != want {
		t.Errorf("forwarded %s, want %s", h.Forwarded, want)
	}
	if len(h.Traceparent) != 55 || !strings.HasPrefix(h.Traceparent, "00-") || !strings.HasSuffix(h.Traceparent, "-00") {
		t.Errorf("traceparent %s", h.Traceparent)
	}
	if got := forwardedHost(h.Forwarded); got != db.Hostname() {
		t.Errorf("host read back: %q", got)
	}
	alone := workload.Workload{Namespace: "shop", Name: "web-0", Owner: "web-0"}
	if got, want := header(baggage("", &alone), netip.MustParseAddrPort("[2001:db8::1]:4711"), nil), "k8s.namespace.name=shop,k8s.pod.name=web-0"; got.Baggage != want || got.Forwarded != `for="[2001:db8::1]:4711"` {
		t.Errorf("got %+v, want baggage %s", got, want)
	}
}

func TestEveryWordHasItsFlag(t *testing.T) {
	flags := []string{"-", "DENY", "CONNECT", "TLS_FAILURE", "H2_HANDSHAKE_FAILURE", "NETWORK_POLICY", "IDENTITY_ERROR", "CERT_REVOKED"}
	for _, cause := range []hbone.Cause{hbone.ErrDial, hbone.ErrTLS, hbone.ErrIdentity, hbone.ErrExpired, hbone.ErrDenied,
		hbone.ErrLimit, hbone.ErrReset, hbone.ErrDrained} {
		if _, ok := Words[Word(cause)]; !ok {
			t.Errorf("cause %s of a tunnel is no word", cause)
		}
	}
	for word, flag := range Words {
		if !strings.Contains(strings.Join(flags, " "), flag) {
			t.Errorf("%s: %q is no flag that dashboards know", word, flag)
		}
	}
	const words = 14 // 13 of design.md §9, and id_not_at_source
	if len(Words) != words {
		t.Errorf("%d words, want %d", len(Words), words)
	}
}

func TestErrorsHaveTheWordOfWhatWentWrong(t *testing.T) {
	for _, row := range []struct {
		err  error
		word Word
		text string // that users search for
	}{
		{nil, OK, ""},
		{&policy.Denied{Policy: "PeerAuthentication a/b"}, Denied, ""},
		{&hbone.StatusError{Code: 401}, Denied, "http status: 401 Unauthorized"},
		{&hbone.StatusError{Code: 503}, Dial, "http status: 503 Service Unavailable"},
		{fmt.Errorf("%w: %w", hbone.ErrDial, context.DeadlineExceeded), Dial,
			"connection timed out, maybe a NetworkPolicy is blocking HBONE port 15008"},
		{fmt.Errorf("%w: no SVID", hbone.ErrIdentity), Identity, "identity error: "},
		{fmt.Errorf("%w: %w", hbone.ErrDial, syscall.EMFILE), Limit, ""},
		{fmt.Errorf("x: %w", hbone.ErrExpired), Expired, ""},
		{fmt.Errorf("x: %w", workload.ErrNoEndpoint), Dial, ""},
		{errors.New("whatever"), Dial, ""},
	} {
		if got := wordOf(row.err); got != row.word {
			t.Errorf("%v: %s, want %s", row.err, got, row.word)
		}
		if row.text != "" && !strings.Contains(explained(row.err).Error(), row.text) {
			t.Errorf("%q does not say %q", explained(row.err), row.text)
		}
	}
}

func FuzzForwardedHost(f *testing.F) {
	f.Add(`for="10.0.0.1:1";host=db.shop.svc.cluster.local`)
	f.Add("host=\"")
	f.Add(";;=;host")
	f.Fuzz(func(t *testing.T, forwarded string) {
		if host := forwardedHost(forwarded); strings.ContainsAny(host, ";") || !strings.Contains(forwarded, host) {
			t.Errorf("host %q of %q", host, forwarded)
		}
	})
}
