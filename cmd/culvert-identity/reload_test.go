// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/identity/ca/catest"
	"github.com/culvert-mesh/culvert/identity/identityv1"
	"github.com/culvert-mesh/culvert/test/env"
)

const webID = "spiffe://cluster.local/ns/shop/sa/web"

// A001-1, A001-8: the program serves 200 requests a second of five nodes, and new
// connections, while an operator replaces the issuer every 300 ms, one file at a time.
func TestNoRequestFailsWhileIssuersAreReplaced(t *testing.T) {
	dir := t.TempDir()
	authority, objects := filepath.Join(dir, "ca"), filepath.Join(dir, "objects")
	for _, path := range []string{authority, objects} {
		if err := os.Mkdir(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	files := catest.Made(t)
	for name, text := range files {
		write(t, filepath.Join(authority, name), string(text))
	}
	jwks := filepath.Join(dir, "jwks.json")
	signer := tokenSigner(t, jwks)
	addr, metrics := env.Address(t), env.Address(t)
	var nodes []node
	// A node of good will does not ask for one identity again and again.
	const accounts = 100
	var next atomic.Int64
	anyID := func() string { return fmt.Sprintf("%s-%d", webID, next.Add(1)%accounts) }
	namespace, pod, _ := strings.Cut(shop, "---")
	write(t, filepath.Join(objects, "namespace.yaml"), namespace)
	for i := 1; i <= 5; i++ {
		name := fmt.Sprintf("node-%d", i)
		var pods strings.Builder
		for j := range accounts {
			one := fmt.Sprintf("%s-%d", name, j)
			pods.WriteString("---\n" + strings.NewReplacer("web-1", "web-"+one, "u-1", "u-"+one, "node-1", name, "serviceAccountName: web", fmt.Sprintf("serviceAccountName: web-%d", j),
				"10.0.0.1", fmt.Sprintf("10.0.%d.%d", i, j+1)).Replace(pod))
		}
		write(t, filepath.Join(objects, name+".yaml"), pods.String())
		nodes = append(nodes, node{t: t, token: tokenOf(t, signer, name, nil), client: dial(t, addr, filepath.Join(authority, ca.RootFile))})
	}
	pid := serve(t, dir, "-dir", authority, "-workloads", objects, "-jwks", jwks, "-listen", addr, "-metrics-address", metrics)
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	deadline := time.Now().Add(30 * time.Second)
	for _, n := range nodes {
		err := n.ask(anyID())
		for ; status.Code(err) == codes.Unavailable && time.Now().Before(deadline); err = n.ask(anyID()) {
			<-again.C // it reads what runs where
		}
		if err != nil {
			t.Fatal(err)
		}
	}

	var asked, failed atomic.Int64
	ask := func(n node) {
		asked.Add(1)
		if err := n.ask(anyID()); err != nil {
			failed.Add(1)
			t.Error(err)
		}
	}
	stop := make(chan struct{})
	var running sync.WaitGroup
	for _, n := range nodes {
		running.Go(func() { every(stop, 25*time.Millisecond, func() { ask(n) }) })
	}
	running.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			case <-time.After(500 * time.Millisecond):
				conn := connect(t, addr, filepath.Join(authority, ca.RootFile))
				ask(node{t: t, token: nodes[i%5].token, client: identityv1.NewIstioCertificateServiceClient(conn)})
				conn.Close() // a node may have eight
			}
		}
	})
	began, last := time.Now(), files
	proved := func() bool { return asked.Load() >= 300 && updated(t, metrics) >= 10 }
	for round := 0; round < 20 || !proved() && time.Since(began) < time.Minute; round++ {
		last = catest.Reissued(t, files)
		for _, name := range []string{ca.IssuerKeyFile, ca.IssuerFile} {
			write(t, filepath.Join(authority, name), string(last[name]))
		}
		time.Sleep(300 * time.Millisecond) // the pace of the story: nothing is waited for
	}
	touched := env.NewStopwatch(pid)
	eventually(t, "the last issuer signs", func() bool {
		chain, err := nodes[1].chain(anyID())
		return err == nil && chain[1] == string(last[ca.IssuerFile])
	})
	if took := touched.Elapsed(); took > 5*time.Second {
		t.Errorf("it signed %v after it was there", took)
	}
	close(stop)
	running.Wait()
	took := time.Since(began)
	t.Logf("%d requests in %v, %d failed", asked.Load(), took.Round(time.Millisecond), failed.Load())
	if !proved() {
		t.Errorf("%d requests while %d issuers were taken are no proof", asked.Load(), updated(t, metrics))
	}
}

// updated is how many issuers were taken, as the metrics say.
func updated(t *testing.T, metrics string) (n int) {
	t.Helper()
	for line := range strings.Lines(get(t, metrics, "/metrics")) {
		if rest, found := strings.CutPrefix(line, `culvert_identity_ca_events_total{event="IssuerUpdated"} `); found {
			if _, err := fmt.Sscan(rest, &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// every calls do at a steady pace until stop is closed.
func every(stop <-chan struct{}, pace time.Duration, do func()) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			return
		case <-tick.C:
			do()
		}
	}
}

// serve runs the program until the test ends.
func serve(t *testing.T, dir string, args ...string) (pid int) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "culvert-identity")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	admin := env.Address(t)
	cmd := exec.Command(program, append(args, "-dns-name", "ca.test", "-admin-address", admin, "-log-level", "error")...)
	cmd.Stderr = t.Output()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd.Process.Pid
}
