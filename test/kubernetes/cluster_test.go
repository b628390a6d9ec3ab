// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/test/kubernetes/binaries"
	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// kept is the name of a cluster that is used as it is, started if it is not up, and left
// up, so that whoever writes a test can run it again and again. Empty: none.
var kept = os.Getenv("TEST_CLUSTER")

// sharedName is the cluster that all tests share which do not end it.
var sharedName = cmp.Or(kept, clusterName("test"))

var (
	program   string // the command under test, as make cluster runs it
	imagesDir string // of Culvert's images, which are built once for all clusters
	shared    = sync.OnceValue(func() error {
		if kept != "" && isUp(kept) {
			return nil
		}
		return start(sharedName)
	})
)

// clusterName is the name of a cluster of this checkout: the tests of another one may run
// on the same machine, and must not end it.
func clusterName(what string) string {
	dir, err := os.Getwd()
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("%s-%x", what, sha256.Sum256([]byte(dir)))[:len(what)+7]
}

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "culvert-cluster-test-")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		program, imagesDir = filepath.Join(dir, "cluster"), filepath.Join(dir, "images")
		if err := allLanes(); err != nil {
			panic(err)
		}
		if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
			return 1
		}
		code := m.Run()
		if kept != "" {
			return code
		}
		for _, name := range []string{sharedName, meshName} {
			if out, err := exec.Command(program, "down", "-name", name).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "cluster down: %v\n%s", err, out)
				code = 1
			}
		}
		return code
	}())
}

var imagesBuilt = sync.OnceValue(func() error {
	return buildImages(context.Background(), ".", imagesDir)
})

func isUp(name string) bool {
	return exec.Command(program, "enter", "-name", name, "node2", "true").Run() == nil
}

// starting is held while a cluster starts: two at a time would take twice as long.
var starting sync.Mutex

// start removes what an earlier test run left of the cluster, and starts it.
func start(name string, flags ...string) error {
	if err := imagesBuilt(); err != nil {
		return err
	}
	starting.Lock()
	defer starting.Unlock()
	if out, err := exec.Command(program, "down", "-name", name).CombinedOutput(); err != nil {
		return fmt.Errorf("cluster down: %w\n%s", err, out)
	}
	if out, err := exec.Command(program, append([]string{"up", "-name", name, "-images", imagesDir}, flags...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("cluster up: %w\n%s", err, out)
	}
	return nil
}

// running is a cluster that is up.
type running struct {
	t        *testing.T
	name     string
	binaries string
}

// useShared returns the shared cluster, which it starts if it is the first.
func useShared(t *testing.T) *running {
	t.Helper()
	needRoot(t)
	sharedLane.join(t)
	if err := shared(); err != nil {
		t.Fatal(err)
	}
	return use(t, sharedName)
}

func use(t *testing.T, name string) *running {
	t.Helper()
	dir, err := binaries.Build(t.Context(), ".", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return &running{t, name, dir}
}

// needRoot skips the test without root, unless MESH_REQUIRE asks for all privileges.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("MESH_REQUIRE") != "":
		t.Fatal("MESH_REQUIRE is set, and this is not root")
	default:
		t.Skip("needs root, for namespaces and mounts")
	}
}

// takeDown removes a cluster.
func takeDown(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command(program, "down", "-name", name).CombinedOutput(); err != nil {
		t.Errorf("cluster down: %v\n%s", err, out)
	}
}

// kubectl returns what kubectl prints.
func (r *running) kubectl(args ...string) (string, error) {
	cmd := exec.Command(filepath.Join(r.binaries, "kubectl"), append([]string{"--kubeconfig=" + cluster.Kubeconfig(r.name)}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *running) mustKubectl(args ...string) string {
	r.t.Helper()
	out, err := r.kubectl(args...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// tryEnter returns what a command prints on a node.
func (r *running) tryEnter(node string, command ...string) (string, error) {
	out, err := exec.Command(program, append([]string{"enter", "-name", r.name, node}, command...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w\n%s", node, strings.Join(command, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (r *running) enter(node string, command ...string) string {
	r.t.Helper()
	out, err := r.tryEnter(node, command...)
	if err != nil {
		r.t.Fatal(err)
	}
	return out
}

// eventually asks again until done has no error, for a minute.
func eventually(t *testing.T, done func() error) {
	t.Helper()
	within(t, time.Minute, done)
}

func within(t *testing.T, patience time.Duration, done func() error) {
	t.Helper()
	deadline := time.After(patience)
	again := time.NewTicker(200 * time.Millisecond)
	defer again.Stop()
	for {
		err := done()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatal(err)
		case <-again.C:
		}
	}
}
