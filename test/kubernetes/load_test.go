// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// shop is a namespace with testdata/shop.yaml in it.
type shop struct {
	*running
	namespace string
	word      string // that its clients say
}

// openShop makes it, and returns when all of its pods are ready. It goes with the test.
func (r *running) openShop(namespace string) *shop {
	r.t.Helper()
	text, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		r.t.Fatal(err)
	}
	s := &shop{running: r, namespace: namespace, word: "word-" + strings.ToLower(rand.Text()[:16])}
	r.mustKubectl("create", "namespace", namespace)
	r.t.Cleanup(func() {
		_, _ = r.kubectl("delete", "namespace", namespace, "--wait=false")
		_, _ = r.kubectl("delete", "pods", "--all", "--namespace="+namespace, "--grace-period=1")
	})
	eventually(r.t, func() error { // the namespace may not have its ServiceAccount yet
		return r.apply(strings.ReplaceAll(string(text), "WORD", s.word), "--namespace="+namespace)
	})
	s.kubectlHere("rollout", "status", "deployment/web", "--timeout=60s")
	s.kubectlHere("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	return s
}

// apply applies objects.
func (r *running) apply(text string, flags ...string) error {
	cmd := exec.Command(filepath.Join(r.binaries, "kubectl"), append([]string{"--kubeconfig=" + cluster.Kubeconfig(r.name), "apply", "--filename=-"}, flags...)...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl apply: %w\n%s", err, out)
	}
	return nil
}

// kubectlHere is kubectl in the shop's namespace.
func (s *shop) kubectlHere(args ...string) string {
	s.t.Helper()
	return s.mustKubectl(append([]string{"--namespace=" + s.namespace}, args...)...)
}

// tally is a line of podapp's: what ended in one second.
type tally struct {
	Second     int64
	OK, Failed int
	Error      string // the last one
}

// since adds up what one of the clients, load, hold or hold6, has counted from a second on.
// The present second is not yet among it.
func (s *shop) since(from time.Time, client string) tally {
	s.t.Helper()
	all := tally{Second: from.Unix()}
	said := s.kubectlHere("logs", "client", "--container="+client, "--since-time="+from.UTC().Format(time.RFC3339))
	for line := range strings.Lines(said) {
		var t tally
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			s.t.Fatalf("%s says %q: %v", client, line, err)
		}
		if t.Second < from.Unix() {
			continue
		}
		all.OK += t.OK
		all.Failed += t.Failed
		if t.Error != "" {
			all.Error = t.Error
		}
	}
	return all
}

// clients are the containers of the shop's pod client.
var clients = []string{"load", "hold", "hold6"}

// allWell is an error if one of the clients failed in anything since then, or did nothing.
func (s *shop) allWell(from time.Time) error {
	s.t.Helper()
	for _, client := range clients {
		if t := s.since(from, client); t.Failed > 0 || t.OK == 0 {
			return fmt.Errorf("%s: %d well, %d failed, at last with %q", client, t.OK, t.Failed, t.Error)
		}
	}
	return nil
}

func TestClientsTellHowItGoes(t *testing.T) {
	s := useShared(t).openShop("shop-load")
	open := time.Now().Add(time.Second)
	eventually(t, func() error { return s.allWell(open) })
	if load := s.since(open, "load"); load.OK < 5 {
		t.Errorf("%d requests in a second, want 5 at least", load.OK)
	}
	s.kubectlHere("delete", "pod", "far", "--grace-period=1")
	eventually(t, func() error {
		for _, client := range []string{"hold", "hold6"} {
			if s.since(open, client).Failed == 0 {
				return fmt.Errorf("the pod is gone whose connection %s held, and it says nothing", client)
			}
		}
		return nil
	})
	if load := s.since(open, "load"); load.Failed != 0 {
		t.Errorf("another pod is gone, and %d requests failed: %s", load.Failed, load.Error)
	}
}
