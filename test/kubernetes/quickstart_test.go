// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// The README's commands, as they stand there, put the pods of a running namespace into
// the mesh. A002-3: within a minute; two of them act, and two wait for what these did.
func TestTheReadmesFourCommandsPutANamespaceIntoTheMesh(t *testing.T) {
	needRoot(t)
	commands := quickstart(t)
	if n := len(regexp.MustCompile(`(?m)^\S`).FindAllString(commands, -1)); n != 4 {
		t.Fatalf("the quickstart has %d commands, want 4:\n%s", n, commands)
	}
	ownLane.join(t)
	name := clusterName("readme")
	t.Cleanup(func() { takeDown(t, name) })
	if err := start(name, "-cgroups", "v2"); err != nil {
		t.Fatal(err)
	}
	c := use(t, name)
	c.awaitServiceAccount()
	c.mustKubectl("create", "namespace", "shop")
	c.mustKubectl("create", "deployment", "web", "--namespace=shop", "--image=localhost/podapp:1", "--replicas=4")
	c.mustKubectl("rollout", "status", "deployment/web", "--namespace=shop", "--timeout=1m")

	sh := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", commands)
	sh.Dir = "../.."
	sh.Env = append(os.Environ(), "PATH="+c.commands()+":"+os.Getenv("PATH"), "KUBECONFIG="+cluster.Kubeconfig(name))
	begin := time.Now()
	out, err := sh.CombinedOutput()
	took := time.Since(begin)
	t.Logf("%s\nafter %v", out, took.Round(time.Second/10))
	if err != nil {
		pods, _ := c.kubectl("get", "pods", "--all-namespaces", "--output=wide")
		t.Fatalf("the quickstart: %v\n%s", err, pods)
	}
	if took > time.Minute {
		t.Errorf("the quickstart took %v", took)
	}
	for _, pod := range strings.Fields(c.mustKubectl("get", "pods", "--namespace=shop", "--output=name")) {
		if restarts := c.mustKubectl("get", pod, "--namespace=shop", "--output=jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
			t.Errorf("%s was restarted %s times", pod, restarts)
		}
	}
}

// quickstart is the first block of commands under the README's heading.
func quickstart(t *testing.T) string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "\n## On Kubernetes\n")
	_, block, begun := strings.Cut(section, "\n```sh\n")
	block, _, ended := strings.Cut(block, "\n```\n")
	if !found || !begun || !ended {
		t.Fatal(`README.md has no commands under "On Kubernetes"`)
	}
	return block
}

// commands is a directory of what users have on their PATH: kubectl, and helm.
func (c *running) commands() string {
	c.t.Helper()
	dir := c.t.TempDir()
	if err := os.Symlink(filepath.Join(c.binaries, "kubectl"), filepath.Join(dir, "kubectl")); err != nil {
		c.t.Fatal(err)
	}
	module, err := filepath.Abs("../../tools/helm/go.mod")
	if err != nil {
		c.t.Fatal(err)
	}
	helm := fmt.Sprintf("#!/bin/sh\nexec go tool -modfile=%s helm \"$@\"\n", module)
	if err := os.WriteFile(filepath.Join(dir, "helm"), []byte(helm), 0o755); err != nil {
		c.t.Fatal(err)
	}
	return dir
}
