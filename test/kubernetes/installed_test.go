// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// meshName is the cluster on which Culvert is installed, by its chart, when pods run there
// already: those of the shop older. Tests share it, and leave it as they found it.
var meshName = sharedName + "-mesh"

const older = "older"

var sharedMesh = sync.OnceValue(func() error {
	if kept != "" && isUp(meshName) {
		return nil
	}
	return start(meshName)
})

// installed is Culvert on a running cluster, installed as users do it.
type installed struct{ *running }

// useMesh returns the cluster with Culvert, which it starts and installs if it is the first.
func useMesh(t *testing.T) *installed { return useMeshIn(t, &meshLane) }

// useMeshAlone is for stories that measure what others beside them would change.
func useMeshAlone(t *testing.T) *installed { return useMeshIn(t, &lastLane) }

func useMeshIn(t *testing.T, l *lane) *installed {
	t.Helper()
	needRoot(t)
	l.join(t)
	if err := sharedMesh(); err != nil {
		t.Fatal(err)
	}
	m := &installed{use(t, meshName)}
	if _, err := m.kubectl("get", "daemonset", "ztunnel", "--namespace=culvert-system"); err != nil {
		m.fillShop(older)
		begin := time.Now()
		if out, err := exec.Command(program, "install", "-name", meshName).CombinedOutput(); err != nil {
			m.tell()
			t.Fatalf("cluster install: %v\n%s", err, out)
		}
		t.Logf("Culvert was installed and ready in %.1f s", time.Since(begin).Seconds())
	}
	t.Cleanup(func() {
		if t.Failed() {
			m.tell()
		}
	})
	m.awaitReady()
	return m
}

// awaitReady waits until all of Culvert is.
func (m *installed) awaitReady() {
	m.t.Helper()
	for _, what := range []string{"deployment/culvert-identity", "daemonset/ztunnel"} {
		m.mustKubectl("rollout", "status", "--namespace=culvert-system", what, "--timeout=2m")
	}
}

// tell prints what Culvert's programs say, for people, but for the records of connections.
func (m *installed) tell() {
	pods, err := m.kubectl("get", "pods", "--all-namespaces", "--output=wide")
	m.t.Logf("%s %v", pods, err)
	for _, app := range []string{"ztunnel", "culvert-identity"} {
		said, _ := m.kubectl("logs", "--namespace=culvert-system", "--selector=app.kubernetes.io/name="+app, "--all-containers", "--prefix", "--tail=1000")
		var lines []string
		for line := range strings.Lines(said) {
			if !strings.Contains(line, `"message":"connection `) {
				lines = append(lines, line)
			}
		}
		m.t.Logf("%s says:\n%s", app, strings.Join(lines[max(0, len(lines)-40):], ""))
	}
}
