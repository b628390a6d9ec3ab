// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cni/install"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
	"github.com/culvert-mesh/culvert/ztunnel/otlp"
	"github.com/culvert-mesh/culvert/ztunnel/proxy"
)

// agent is all metrics of a ztunnel. What it says of its parts can be changed; the names
// are those of ztunnel/metrics, and words and states are of the parts themselves.
type agent struct {
	*metrics.Metrics
	name   string
	server *httptest.Server
	pods   atomic.Pointer[metrics.Enrollment]
	used   atomic.Int64 // of 100, of each budget
	lost   atomic.Int64 // log records
	lostBy atomic.Int64 // access records that OpenTelemetry's receiver did not take
	down   atomic.Bool
	left   atomic.Int64 // bytes that the open connection carried
}

func newAgent(t *testing.T, name string) *agent {
	m := metrics.New(metrics.Config{Version: "v0.0.0"})
	a := &agent{Metrics: m, name: name, server: httptest.NewServer(m.Handler())}
	t.Cleanup(a.server.Close)
	a.pods.Store(&metrics.Enrollment{Intended: 3, Enrolled: 3, Verified: 3, Certified: 3})
	m.Pods(func() metrics.Enrollment { return *a.pods.Load() })
	m.Tunnels(func() metrics.Tunnels { return metrics.Tunnels{} })
	m.Certificates(func() metrics.Certificates {
		return metrics.Certificates{
			Held:   map[string]int{string(certs.Valid): 1, string(certs.Overdue): 0, string(certs.Expired): 0, string(certs.Missing): 0},
			Lives:  map[string]metrics.Life{web.String(): {Until: time.Now().Add(240 * time.Hour), Lifetime: 241 * time.Hour, Next: time.Now().Add(120 * time.Hour)}},
			Failed: map[string]uint64{string(certs.Unreachable): 0},
		}
	})
	m.CA(func() string { return string(certs.Signs) })
	m.Bundle(func() metrics.Bundle { return metrics.Bundle{Generation: 1, Roots: 1, Connected: true} })
	m.DenySet(func() metrics.DenySet { return metrics.DenySet{Generation: 1, Connected: true} })
	m.BPF(func() map[string]uint64 { return map[string]uint64{"outbound_steered": 1} })
	m.Budget(func() (size, used map[string]float64) {
		return map[string]float64{"descriptors": 100}, map[string]float64{"descriptors": float64(a.used.Load())}
	})
	m.Kubelet(func() bool { return true })
	m.Reports(func() (events, statuses map[string]uint64) {
		return map[string]uint64{"written": 1}, map[string]uint64{"written": 1}
	})
	m.LogDropped(func() map[string]uint64 { return map[string]uint64{"info": uint64(a.lost.Load())} })
	m.AccessExported(func() map[string]uint64 {
		return map[string]uint64{otlp.Sent: 7, otlp.Full: uint64(a.lostBy.Load()), otlp.Refused: 0, otlp.Expired: 0}
	})
	m.NetworkPoliciesBlocking(func() int { return 0 })
	m.DryRuns(func() []metrics.DryRun {
		return []metrics.DryRun{{Namespace: "demo", Policy: "web", Verdict: "would_deny", Enforced: "allowed", Connections: 1}}
	})
	m.SourceApplied(1)
	return a
}

func (a *agent) target() target {
	scrape := page(strings.TrimPrefix(a.server.URL, "http://"))
	return target{"ztunnel", a.name, func() ([]byte, error) {
		if a.down.Load() {
			return nil, context.DeadlineExceeded
		}
		return scrape()
	}}
}

// busy has the agent count one of all that ztunnel counts.
func (a *agent) busy() {
	peer := func(name string) metrics.Peer {
		return metrics.Peer{Workload: name, Canonical: name, Namespace: "demo", Principal: web.String(), App: name, Cluster: "Kubernetes"}
	}
	for _, reporter := range []string{metrics.Source, metrics.Destination} {
		flow := metrics.Flow{Reporter: reporter, Source: peer("client"), Destination: peer("server"), Service: metrics.Service{Host: "server", Namespace: "demo", Name: "server"}, MutualTLS: true}
		a.Open(&flow, func() metrics.Bytes { n := uint64(a.left.Add(1 << 20)); return metrics.Bytes{Received: n, Sent: n} })
		a.Open(&flow, func() metrics.Bytes { return metrics.Bytes{} }).Close("-")
		for _, flags := range proxy.Words {
			if flags != "-" {
				a.Open(&flow, func() metrics.Bytes { return metrics.Bytes{} }).Close(flags)
			}
		}
	}
	for word := range proxy.Words {
		if word != proxy.OK && word != proxy.Reset {
			a.Refused("inbound", string(word))
			a.Refused("outbound", string(word))
		}
	}
	a.Plaintext("inbound", "permissive")
	a.Plaintext("outbound", "outside_mesh")
	a.Repaired("connect4")
	a.NetworkPolicyRefused("ingress", "enforce", "demo")
	a.NotAtSource("warn", true)
	a.AddressesRefused("limit", 1)
	a.SourceError()
}

// installer is the plugin's installer, on a directory that its runtime would have.
type installer struct {
	conf    string
	metrics string
}

func newInstaller(t *testing.T) *installer {
	dir := t.TempDir()
	conf, bin, program := filepath.Join(dir, "net.d"), filepath.Join(dir, "bin"), filepath.Join(dir, "culvert-cni")
	for _, d := range []string{conf, bin} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(program, []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := install.New(install.Config{
		ConfDir: conf, BinDir: bin, Program: program, Entry: json.RawMessage(`{"type":"culvert-cni"}`), Versions: []string{"1.0.0"},
		Settle: time.Millisecond, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- in.Run(ctx) }()
	go func() { ended <- in.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	i := &installer{conf: conf, metrics: ln.Addr().String()}
	i.lists(t, `{"cniVersion":"1.0.0","name":"net","plugins":[{"type":"bridge"}]}`)
	i.says(t, "culvert_cni_installed 1")
	return i
}

// lists writes the runtime's list of plugins, as the primary CNI does.
func (i *installer) lists(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(i.conf, "10-net.conflist"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (i *installer) says(t *testing.T, line string) {
	t.Helper()
	eventually(t, line, func() bool {
		text, err := i.target("").scrape()
		return err == nil && strings.Contains(string(text), "\n"+line+"\n")
	})
}

// target is the installer on a node.
func (i *installer) target(node string) target {
	return target{"culvert-cni", node + ":15022", page(i.metrics)}
}
