// SPDX-License-Identifier: Apache-2.0

package alerts

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/metrics"
)

const deadline = 90 * time.Second // of what should take a moment, or three quarters of 25 s

var program string // culvert-identity

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "alerts")
	if err != nil {
		panic(err)
	}
	program = filepath.Join(dir, "culvert-identity")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", program, "./cmd/culvert-identity")
	build.Dir = "../.."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build culvert-identity: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// files are what the programs of one mesh read.
type files struct{ dir string }

// newFiles makes a token, the key that vouches for it, and two pods of a node, as
// docs/running.md does.
func newFiles(t *testing.T) files {
	t.Helper()
	f := files{t.TempDir()}
	if out, err := exec.Command("../../docs/first-run.sh", "files", f.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return f
}

func (f files) path(name string) string { return filepath.Join(f.dir, name) }

// authority is a culvert-identity that runs.
type authority struct {
	t                     *testing.T
	name, ca              string // of its directory
	nodes, metrics, admin string // addresses
	log                   lockedText
	cmd                   *exec.Cmd
}

type lockedText struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedText) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newAuthority starts a CA that lives in a directory of the files, and waits until it
// answers; it need not be ready.
func newAuthority(t *testing.T, f files, name string, flags ...string) *authority {
	t.Helper()
	a := &authority{t: t, name: name, ca: f.path(name), nodes: env.Address(t), metrics: env.Address(t), admin: env.Address(t)}
	a.cmd = exec.Command(program, append([]string{
		"-dir", a.ca, "-workloads", f.path("objects"), "-jwks", f.path("jwks.json"), "-dns-name", "ca.test",
		"-listen", a.nodes, "-metrics-address", a.metrics, "-admin-address", a.admin, "-log-format", "json",
	}, flags...)...)
	a.cmd.Stderr = &a.log
	if err := env.Start(a.cmd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.kill)
	eventually(t, "the CA answers", func() bool { _, err := a.target().scrape(); return err == nil })
	return a
}

// kill is kill -9. What was killed before stays so.
func (a *authority) kill() {
	a.cmd.Process.Kill()
	a.cmd.Wait()
}

func (a *authority) target() target { return target{"culvert-identity", a.name, page(a.metrics)} }

func (a *authority) ready() bool {
	response, err := http.Get("http://" + a.metrics + "/healthz/ready")
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// node is a ztunnel's store of certificates, and the metrics that ztunnel has of it.
type node struct {
	*certs.Store
	name   string
	server *httptest.Server
}

var web = spiffeid.RequireFromString("spiffe://cluster.local/ns/demo/sa/client")

// newNode starts one that holds an identity and asks the CA at an address, by files that
// a change may spoil.
func newNode(t *testing.T, f files, a *authority, change func(*certs.ClientConfig)) *node {
	t.Helper()
	cfg := certs.ClientConfig{Address: a.nodes, ServerName: "ca.test", RootFile: filepath.Join(a.ca, "root.pem"), TokenFile: f.path("token")}
	if change != nil {
		change(&cfg)
	}
	client, err := certs.NewClient(cfg)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{name: "node1", Store: certs.New(certs.Config{
		TrustDomain: web.TrustDomain(), Issuer: client, Node: "node1", TTL: 24 * time.Hour, Log: quiet,
	})}
	counts := metrics.New(metrics.Config{})
	counts.Certificates(n.certificates)
	counts.Pods(func() metrics.Enrollment { return metrics.Enrollment{} })
	counts.CA(func() string { return string(n.Standing().Reason) })
	n.server = httptest.NewServer(counts.Handler())
	release := n.Hold(web)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.Run(ctx) }()
	t.Cleanup(func() {
		release()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("certificates: %v", err)
		}
		client.Close()
		n.server.Close()
	})
	return n
}

// certificates is what ztunnel publishes of its store.
func (n *node) certificates() metrics.Certificates {
	stats := n.Stats()
	c := metrics.Certificates{
		Held: map[string]int{}, Lives: map[string]metrics.Life{}, Failed: map[string]uint64{}, Issued: stats.Issued, InFlight: stats.InFlight,
	}
	for state, held := range stats.Held {
		c.Held[string(state)] = held
	}
	for reason, failed := range stats.Failed {
		c.Failed[string(reason)] = failed
	}
	for id, life := range n.Lives() {
		c.Lives[id] = metrics.Life{
			Until: life.Until, Lifetime: life.Lifetime, Next: life.Next, Overdue: life.State == certs.Overdue || life.State == certs.Expired,
		}
	}
	return c
}

func (n *node) target() target {
	return target{"ztunnel", n.name, page(strings.TrimPrefix(n.server.URL, "http://"))}
}

// served waits until the node has a certificate.
func (n *node) served(t *testing.T) {
	t.Helper()
	eventually(t, "the node has a certificate", func() bool { return n.Certificate(web).State == certs.Valid })
}

// says waits until the CA said this of the node.
func (n *node) says(t *testing.T, reason certs.Reason) {
	t.Helper()
	eventually(t, "the node hears "+string(reason), func() bool { return n.Standing().Reason == reason })
}

func eventually(t *testing.T, what string, true func() bool) {
	t.Helper()
	for limit := time.Now().Add(deadline); !true(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("not within %v: %s", deadline, what)
		}
	}
}
