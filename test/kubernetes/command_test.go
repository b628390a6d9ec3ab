// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// culvert runs the operator's command by a kubeconfig, and returns what it printed and its
// exit code.
func (r *running) culvert(kubeconfig string, args ...string) (out string, code int) {
	r.t.Helper()
	cmd := exec.Command(filepath.Join(buildCommand(r.t), "culvert"), append([]string{"--kubeconfig=" + kubeconfig}, args...)...)
	text, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		r.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// buildCommand returns a directory with the operator's command as it ships.
func buildCommand(t *testing.T) string {
	t.Helper()
	dir, err := commandBuilt()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

var commandBuilt = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(program), "command")
	build := exec.Command("go", "build", "-C", "../..", "-o", dir+"/", "./cmd/culvert")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

// Both nodes' dumps, which are on their loopbacks, and the CA's replicas are reached through
// the API server. Who lacks the rights is told which.
func TestTheOperatorsCommandReachesEveryNodeOfACluster(t *testing.T) {
	m := useMesh(t)
	admin := cluster.Kubeconfig(m.name)
	specs := func() string {
		return m.mustKubectl("get", "pods", "--namespace="+older, "--sort-by=.metadata.name", `--output=jsonpath={range .items[*]}{.metadata.uid} {.spec}{"\n"}{end}`)
	}
	before := specs()
	m.mustKubectl("label", "namespace", older, "culvert.dev/mesh=enabled")
	t.Cleanup(func() { m.mustKubectl("label", "namespace", older, "culvert.dev/mesh-") })

	eventually(t, func() error {
		out, code := m.culvert(admin, "certs", "list")
		if code != 0 || !strings.Contains(out, "node1 ") || !strings.Contains(out, "node2 ") || strings.Contains(out, "unknown") {
			return errors.New(out)
		}
		if !strings.Contains(out, "/ns/"+older+"/sa/default") || !strings.Contains(out, " valid ") {
			return errors.New(out)
		}
		return nil
	})
	// A000-1: pods have a certificate without a volume, variable or container of ours.
	if after := specs(); after != before {
		t.Errorf("pods before they had certificates:\n%s\nand after:\n%s", before, after)
	}
	buildCommand(t)
	began := time.Now()
	out, code := m.culvert(admin, "check", "-o", "json")
	t.Logf("check of two nodes took %.1f s", time.Since(began).Seconds())
	var answer struct {
		Checks []struct{ ID, State, Detail string }
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		t.Fatalf("check: %v\n%s", err, out)
	}
	for _, c := range answer.Checks {
		if c.State == "failed" || c.State == "skipped" && c.ID != "leaf-served" && c.ID != "install-rights" && c.ID != "foreign-known" && !strings.HasPrefix(c.ID, "federation-") {
			t.Errorf("check: %s %s: %s", c.ID, c.State, c.Detail)
		}
	}
	if len(answer.Checks) < 30 || code != 0 {
		t.Errorf("check: %d questions, exit code %d", len(answer.Checks), code)
	}
	for _, tc := range []struct {
		args []string
		want []string
	}{
		{[]string{"check", "--pre"}, []string{"install-rights", "0 failed"}},
		{[]string{"status"}, []string{"ok: 2 nodes", "node1", "node2"}},
		{[]string{"expiry", "--fail-within=30d"}, []string{"Root", "ConfigMap culvert-system/culvert-root", "Issuer", "Serving", "culvert-identity.culvert-system.svc"}},
		{[]string{"bundle", "acks"}, []string{"node1", "node2", "current"}},
		{[]string{"bundle", "history"}, []string{"trusted"}},
		{[]string{"identities"}, []string{"spiffe://cluster.local/ns/"}},
		{[]string{"ca", "show"}, []string{"Secret culvert-system/culvert-ca", "root", "issuer", "generation "}},
		{[]string{"ca", "verify"}, []string{"layout culvert", "can be used"}},
		{[]string{"ca", "recover"}, []string{"nothing to recover"}},
		{[]string{"ca", "outage-budget"}, []string{"node1", "node2"}},
		{[]string{"ca", "export"}, []string{"BEGIN CERTIFICATE"}},
	} {
		out, code := m.culvert(admin, tc.args...)
		if code != 0 || strings.Contains(out, "PRIVATE KEY-----") {
			t.Errorf("%v: exit code %d\n%s", tc.args, code, out)
		}
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%v: no %q in\n%s", tc.args, want, out)
			}
		}
	}

	nobody := m.kubeconfigOf("default", "default")
	if out, code := m.culvert(nobody, "certs", "list"); code != 2 || !strings.Contains(out, "forbidden") || !strings.Contains(out, "pods") {
		t.Errorf("without rights: exit code %d\n%s", code, out)
	}
	if out, code := m.culvert(admin, "ca", "init"); code != 2 || !strings.Contains(out, "nothing is written over it") && !strings.Contains(out, "another CA") {
		t.Errorf("a CA over a CA: exit code %d\n%s", code, out)
	}
	m.provesWhatIsOnTheWire(t, admin)
}
