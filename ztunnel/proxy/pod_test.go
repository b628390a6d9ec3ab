// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/ztunnel/edges"
	"github.com/culvert-mesh/culvert/ztunnel/events"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/socket"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The mesh of the tests. Everybody has a loopback address of their own, and
// whoever is not listed here does not exist although 127.0.0.0/8 is the mesh's.
var (
	webAddr    = netip.MustParseAddr("127.0.1.1")
	dbAddr     = netip.MustParseAddr("127.0.1.2")
	legacyAddr = netip.MustParseAddr("127.0.1.3")
	ghostAddr  = netip.MustParseAddr("127.0.1.9") // of nobody
	dbVIP      = netip.MustParseAddrPort("10.96.0.10:5432")
	legacyVIP  = netip.MustParseAddrPort("10.96.0.11:80")
	webVIP     = netip.MustParseAddrPort("10.96.0.13:80")
	emptyVIP   = netip.MustParseAddrPort("10.96.0.12:80")
)

func pod(name string, addr netip.Addr, meshed bool) workload.Workload {
	return workload.Workload{
		UID: "uid-" + name, Namespace: "shop", Name: name + "-0", Owner: name, CanonicalName: name, CanonicalRevision: "v1",
		ServiceAccount: name, ID: spiffeid.RequireFromString("spiffe://cluster.local/ns/shop/sa/" + name),
		Addrs: []netip.Addr{addr}, Labels: workload.NewLabels(map[string]string{"app": name}), Meshed: meshed, Ready: true,
	}
}

func service(name string, vip netip.AddrPort, addrs ...netip.AddrPort) workload.Service {
	var endpoints []workload.Endpoint
	for _, addr := range addrs {
		endpoints = append(endpoints, workload.Endpoint{Addr: addr})
	}
	return workload.Service{
		Namespace: "shop", Name: name, VIPs: []netip.Addr{vip.Addr()},
		Ports: []workload.ServicePort{{Name: "tcp", Port: vip.Port(), Endpoints: endpoints}},
	}
}

// meshOf is the mesh with the apps of db and legacy at these ports.
func meshOf(db, legacy uint16) workload.Mesh {
	return workload.Mesh{
		Workloads: workload.Pack(pod("web", webAddr, true), pod("db", dbAddr, true), pod("legacy", legacyAddr, false)),
		Services: []workload.Service{
			service("db", dbVIP, netip.AddrPortFrom(dbAddr, db)),
			service("legacy", legacyVIP, netip.AddrPortFrom(legacyAddr, legacy)),
			service("empty", emptyVIP),
		},
	}
}

// bench is one pod's proxies with everything around them at hand.
type bench struct {
	*Pod
	t       *testing.T
	level   slog.LevelVar
	policy  *policy.Set
	records chan map[string]any // access records in the order of their writing
	dialled chan [2]netip.AddrPort
}

// newBench is a pod named as one of the workloads.
func newBench(t *testing.T, registry *workload.Registry, name string) *bench {
	t.Helper()
	b := &bench{t: t, policy: policy.NewSet(), records: make(chan map[string]any, 100), dialled: make(chan [2]netip.AddrPort, 100)}
	log := slog.New(slog.NewJSONHandler(lines(func(line []byte) {
		var record map[string]any
		if err := json.Unmarshal(line, &record); err != nil {
			t.Errorf("record %s: %v", line, err)
		}
		b.records <- record
	}), &slog.HandlerOptions{Level: &b.level}))
	var dialer net.Dialer
	connect := func(ctx context.Context, to netip.AddrPort) (*net.TCPConn, error) {
		conn, err := dialer.DialContext(ctx, "tcp", to.String())
		if err != nil {
			return nil, err
		}
		return conn.(*net.TCPConn), nil
	}
	b.Pod = &Pod{
		Self:     func() (workload.Workload, bool) { return registry.ByUID("uid-" + name) },
		Registry: registry,
		Policy:   b.policy,
		Peers:    NewPeers(registry),
		OriginalDst: func(*net.TCPConn) (netip.AddrPort, error) {
			t.Error("nobody asks here")
			return netip.AddrPort{}, io.EOF
		},
		Direct: func(ctx context.Context, from netip.Addr, to netip.AddrPort) (*net.TCPConn, error) {
			b.dialled <- [2]netip.AddrPort{netip.AddrPortFrom(from, 0), to}
			return connect(ctx, to)
		},
		Inner: func(ctx context.Context, from, to netip.AddrPort) (*net.TCPConn, error) {
			b.dialled <- [2]netip.AddrPort{from, to}
			return connect(ctx, to)
		},
		IsInner: func(*net.TCPConn) bool { return false },
		IsOwn:   func(netip.Addr) bool { return false },
		Log:     log,
		Metrics: metrics.New(metrics.Config{}),
		Edges:   new(edges.Table),
		Events:  new(events.Stream),
	}
	b.Peers.follow(time.Now().Add(-time.Hour)) // nobody is a newcomer
	return b
}

// lines is a writer that calls itself with each write, one at a time.
type lines func([]byte)

func (l lines) Write(b []byte) (int, error) { l(bytes.Clone(b)); return len(b), nil }

// serve runs a Serve until the test ends and returns the listener's address.
func (b *bench) serve(addr netip.Addr, serve func(context.Context, *net.TCPListener) error) netip.AddrPort {
	b.t.Helper()
	to, stop := b.serveUntil(addr, serve)
	b.t.Cleanup(stop)
	return to
}

// serveUntil runs a Serve until the returned function is called, which waits.
func (b *bench) serveUntil(addr netip.Addr, serve func(context.Context, *net.TCPListener) error) (netip.AddrPort, func()) {
	b.t.Helper()
	ln := listen(b.t, addr)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, ln) }()
	return socket.AddrPort(ln.Addr()), sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				b.t.Errorf("Serve: %v", err)
			}
		case <-time.After(patience):
			b.t.Error("Serve does not return")
		}
	})
}

// record waits for the next access record and checks what is always there.
func (b *bench) record(word Word) map[string]any {
	b.t.Helper()
	select {
	case r := <-b.records:
		if r["result"] != string(word) || r["response_flags"] != Words[word] {
			b.t.Errorf("result %v, response_flags %v; want %s, %s: %v", r["result"], r["response_flags"], word, Words[word], r)
		}
		if _, ok := r["error"]; ok != (word != OK) {
			b.t.Errorf("error %v with result %s", r["error"], word)
		}
		return r
	case <-time.After(patience):
		b.t.Fatalf("no access record, want %s", word)
		return nil
	}
}

// has checks fields of a record; nil means absent.
func has(t *testing.T, record map[string]any, want map[string]any) {
	t.Helper()
	for field, v := range want {
		if got, ok := record[field]; got != v || ok != (v != nil) {
			t.Errorf("%s = %v, want %v", field, got, v)
		}
	}
}

// metric returns the value of the one series of that name with all of labels.
func (b *bench) metric(name string, labels ...string) string {
	b.t.Helper()
	w := httptest.NewRecorder()
	b.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	found := ""
	for line := range strings.Lines(w.Body.String()) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), "} ")
		if !ok || !strings.HasPrefix(series, name+"{") {
			continue
		}
		all := true
		for _, l := range labels {
			all = all && strings.Contains(series, l)
		}
		if all {
			found += value
		}
	}
	return found
}

// nobody checks that no connection was dialled.
func (b *bench) nobodyDialled() {
	b.t.Helper()
	select {
	case d := <-b.dialled:
		b.t.Errorf("dialled %v", d[1])
	default:
	}
}

func listen(t *testing.T, addr netip.Addr) *net.TCPListener {
	t.Helper()
	ln, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// echo serves an app that sends back what it gets, and returns its port.
func echo(t *testing.T, addr netip.Addr) uint16 {
	t.Helper()
	return app(t, addr, func(conn *net.TCPConn) {
		io.Copy(struct{ io.Writer }{conn}, conn)
		conn.CloseWrite()
	})
}

// app serves an app until the test ends, and returns its port.
func app(t *testing.T, addr netip.Addr, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	ln := listen(t, addr)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := ln.AcceptTCP()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(2 * patience))
			wg.Go(func() {
				defer conn.Close()
				serve(conn)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return socket.AddrPort(ln.Addr()).Port()
}

// connect opens a connection from a source address.
func connect(t *testing.T, from netip.Addr, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.TCPAddrFromAddrPort(to))
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	t.Cleanup(func() { conn.Close() })
	return conn
}

// expectRefused opens a connection and expects its reset, which may come
// before connect returns.
func expectRefused(t *testing.T, from netip.Addr, to netip.AddrPort) {
	t.Helper()
	conn, err := net.DialTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0)), net.TCPAddrFromAddrPort(to))
	if err == nil {
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		_, err = io.Copy(io.Discard, conn)
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("got %v; want a reset", err)
	}
}

// registryOf returns a registry whose mesh CIDR is loopback's.
func registryOf(mesh workload.Mesh) *workload.Registry {
	r := workload.NewRegistry([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	r.Replace(mesh)
	return r
}

// strict is a mesh-wide PeerAuthentication.
func strict() policy.Objects {
	return policy.Objects{RootNamespace: "istio-system", PeerAuthentications: []policy.PeerAuthentication{
		{Object: policy.Object{Namespace: "istio-system", Name: "default"}, Mode: policy.Strict},
	}}
}
