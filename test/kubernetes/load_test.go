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
	word      string // said in new connections
	held      string // said in connections that stay
}

// openShop makes it, with labels of its namespace, and returns when all of its pods are
// ready. It goes with the test.
func (r *running) openShop(namespace string, labels ...string) *shop {
	r.t.Helper()
	r.t.Cleanup(func() {
		_, _ = r.kubectl("delete", "namespace", namespace, "--wait=false")
		_, _ = r.kubectl("delete", "pods", "--all", "--namespace="+namespace, "--grace-period=1")
	})
	return r.fillShop(namespace, labels...)
}

// fillShop makes one that stays.
func (r *running) fillShop(namespace string, labels ...string) *shop {
	r.t.Helper()
	text, err := os.ReadFile("testdata/shop.yaml")
	if err != nil {
		r.t.Fatal(err)
	}
	// Words that nobody says by chance.
	objects := strings.NewReplacer("WORD", "word-"+rand.Text()[:16], "HELD", "held-"+rand.Text()[:16]).Replace(string(text))
	eventually(r.t, func() error { // that of an earlier run may still be on its way out
		_, err := r.kubectl("create", "namespace", namespace)
		return err
	})
	for _, label := range labels {
		r.mustKubectl("label", "namespace", namespace, label)
	}
	eventually(r.t, func() error { // the namespace may not have its ServiceAccount yet
		return r.apply(objects, "--namespace="+namespace)
	})
	s := r.shop(namespace)
	s.kubectlHere("rollout", "status", "deployment/web", "--timeout=60s")
	s.kubectlHere("wait", "--for=condition=Ready", "pod", "--all", "--timeout=60s")
	return s
}

// shop is the one that a namespace has.
func (r *running) shop(namespace string) *shop {
	r.t.Helper()
	s := &shop{running: r, namespace: namespace}
	said := s.kubectlHere("get", "pod", "client", "--output=jsonpath={.spec.containers[0].args[1]} {.spec.containers[1].args[2]}")
	if _, err := fmt.Sscanf(strings.TrimPrefix(said, "http://web/"), "%s %s", &s.word, &s.held); err != nil {
		r.t.Fatalf("the clients of %s say %q: %v", namespace, said, err)
	}
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

// tallies are those of one of the clients, load, hold or hold6, from a second on. The
// present second is not yet among them.
func (s *shop) tallies(from time.Time, client string) ([]tally, error) {
	said, err := s.kubectl("logs", "--namespace="+s.namespace, "client", "--container="+client, "--since-time="+from.UTC().Format(time.RFC3339))
	if err != nil {
		return nil, err
	}
	var found []tally
	for line := range strings.Lines(said) {
		var t tally
		if err := json.Unmarshal([]byte(line), &t); err != nil {
			return nil, fmt.Errorf("%s says %q: %w", client, line, err)
		}
		if t.Second >= from.Unix() {
			found = append(found, t)
		}
	}
	return found, nil
}

// since adds up what a client has counted from a second on.
func (s *shop) since(from time.Time, client string) tally {
	s.t.Helper()
	return s.between(from, time.Now(), client)
}

// between adds up what a client has counted from one second up to another.
func (s *shop) between(from, to time.Time, client string) tally {
	s.t.Helper()
	seconds, err := s.tallies(from, client)
	if err != nil {
		s.t.Fatal(err)
	}
	all := tally{Second: from.Unix()}
	for _, t := range seconds {
		if t.Second >= to.Unix() {
			break
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
