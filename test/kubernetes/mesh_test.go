// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

var bothNodes = []string{"node1", "node2"}

// mesh is Culvert on a running cluster, started by hand: ztunnel and the plugin's
// installer on both nodes, the CA on node1. Pods are in it by their labels.
type mesh struct{ *running }

// Where a node has what the test gives it. The directory is not on the node's overlay,
// so the test can write there while the node runs.
const insideMesh = "/etc/kubernetes/mesh"

// policyKinds are the kinds of Istio's that Culvert reads, as its chart has them.
const policyKinds = "../../deploy/chart/policies"

// startMesh returns once both nodes are ready for meshed pods. The end of the test takes
// all away; pods that the test made must be gone by then, so make them after it.
func startMesh(c *running) *mesh {
	c.t.Helper()
	return startMeshOf(c, (*mesh).startCA)
}

// startMeshOf has startCA start the CA on node1 and give its root to both nodes.
func startMeshOf(c *running, startCA func(*mesh)) *mesh {
	c.t.Helper()
	m := &mesh{c}
	programs := buildMesh(c.t)
	m.authorize()
	m.mustKubectl("apply", "--filename="+policyKinds)
	for _, node := range bothNodes {
		m.give(node, programs)
	}
	c.t.Cleanup(m.remove)
	for _, node := range bothNodes { // first: what is left of ztunnel goes with it
		c.install(node, insideMesh+"/culvert-cni")
	}
	startCA(m)
	for _, node := range bothNodes {
		m.startZtunnel(node)
	}
	for _, node := range bothNodes {
		eventually(c.t, func() error {
			_, err := c.tryEnter(node, "curl", "--silent", "--show-error", "--fail-with-body", "http://127.0.0.1:15021/healthz/ready")
			return err
		})
	}
	return m
}

// dir is a node's insideMesh on this machine.
func (m *mesh) dir(node string, more ...string) string {
	return filepath.Join(append([]string{cluster.Dir(m.name), node, "kubernetes", "mesh"}, more...)...)
}

// authorize makes the ServiceAccount that speaks for nodes.
func (m *mesh) authorize() {
	m.t.Helper()
	eventually(m.t, func() error { // that of an earlier test may still be going
		_, err := m.kubectl("create", "namespace", "culvert-system")
		return err
	})
	m.mustKubectl("create", "serviceaccount", "ztunnel", "--namespace=culvert-system")
}

// give puts programs, the keys of tokens, and the node's own token onto a node.
func (m *mesh) give(node, programs string) {
	m.t.Helper()
	if err := os.MkdirAll(m.dir(node), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if out, err := exec.Command("cp", "--recursive", programs+"/.", m.dir(node)).CombinedOutput(); err != nil {
		m.t.Fatalf("%v\n%s", err, out)
	}
	m.write(node, "jwks.json", m.mustKubectl("get", "--raw=/openid/v1/jwks"))
	m.write(node, "token", m.mustKubectl("create", "token", "ztunnel", "--namespace=culvert-system", "--audience=culvert-identity",
		"--duration=24h", "--bound-object-kind=Node", "--bound-object-name="+node))
	admin, err := os.ReadFile(filepath.Join(cluster.Dir(m.name), "pki", "admin.kubeconfig"))
	if err != nil {
		m.t.Fatal(err)
	}
	m.write(node, "kubeconfig", string(admin))
}

// write replaces a file of insideMesh.
func (m *mesh) write(node, name, text string) {
	m.t.Helper()
	path := m.dir(node, name)
	err := os.WriteFile(path+".new", []byte(text), 0o600)
	if err = errors.Join(err, os.Rename(path+".new", path)); err != nil {
		m.t.Fatal(err)
	}
}

// startCA starts the CA on node1, and gives its root to both nodes.
func (m *mesh) startCA() {
	m.t.Helper()
	m.runOn("node1", "culvert-identity", insideMesh+"/culvert-identity", "-dir", insideMesh+"/ca",
		"-kubeconfig", insideMesh+"/kubeconfig", "-jwks", insideMesh+"/jwks.json", "-issuer", "https://kubernetes.default.svc")
	var root []byte
	eventually(m.t, func() (err error) {
		root, err = os.ReadFile(m.dir("node1", "ca", "root.pem"))
		return err
	})
	for _, node := range bothNodes {
		m.write(node, "root.pem", string(root))
	}
}

// startZtunnel starts it below the node's cgroup2, where the hooks are.
func (m *mesh) startZtunnel(node string) (stop func()) {
	m.t.Helper()
	cgroup := m.enter(node, "findmnt", "--noheadings", "--output=TARGET", "--types=cgroup2")
	address := m.mustKubectl("get", "node", "node1", "--output=jsonpath={.status.addresses[0].address}")
	return m.runOn(node, "ztunnel", insideMesh+"/ztunnel", "-node-name", node, "-kubeconfig", insideMesh+"/kubeconfig",
		"-ca-address", address+":15012", "-ca-server-name", "culvert-identity.culvert-system.svc",
		"-ca-root", insideMesh+"/root.pem", "-token-file", insideMesh+"/token",
		"-cgroup", cgroup, "-kubelet-cgroup", cgroup+"/"+cluster.KubeletCgroup)
}

// log is a program's log on a node, as a path on this machine.
func (m *mesh) log(node, program string) string { return m.dir(node, program+".log") }

// remove takes away what is left of the mesh once its programs have ended.
func (m *mesh) remove() {
	_, _ = m.kubectl("delete", "namespace", "culvert-system")
	_, _ = m.kubectl("delete", "--filename="+policyKinds)
	for _, node := range bothNodes {
		if m.t.Failed() {
			m.t.Logf("the end of ztunnel's log on %s:\n%s", node, last(m.log(node, "ztunnel"), 40))
		}
		m.enter(node, "sh", "-c", "rm -rf /sys/fs/bpf/culvert /run/culvert "+insideMesh)
	}
}

// runOn runs a program on a node until stop or the end of the test, in the root of the
// node's cgroup2, with its output in a log below insideMesh.
func (r *running) runOn(node, name string, command ...string) (stop func()) {
	r.t.Helper()
	// The pid is the node's: this side of it is nsenter, which passes no signal on.
	pidFile := "/run/culvert-test-" + name + ".pid"
	script := fmt.Sprintf(`echo $$ >%s; for procs in $(findmnt -nfo TARGET -t cgroup2)/cgroup.procs; do echo $$ >$procs; done
mkdir -p %s; exec "$@" >>%s/%s.log 2>&1`, pidFile, insideMesh, insideMesh, name)
	cmd := exec.Command(program, append([]string{"enter", "-name", r.name, node, "sh", "-c", script, name}, command...)...)
	cmd.Stderr = r.t.Output()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	eventually(r.t, func() error { _, err := r.tryEnter(node, "test", "-s", pidFile); return err })
	stop = sync.OnceFunc(func() {
		_, _ = r.tryEnter(node, "sh", "-c", "kill -TERM $(cat "+pidFile+") && rm "+pidFile)
		if err := cmd.Wait(); err != nil {
			r.t.Errorf("%s of %s: %v", name, node, err)
		}
	})
	r.t.Cleanup(stop)
	return stop
}

// buildMesh returns a directory with Culvert's programs as they ship.
func buildMesh(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(program), "mesh")
	build := exec.Command("go", "build", "-C", "../..", "-o", dir+"/", "./cmd/ztunnel", "./cmd/culvert-identity", "./cmd/culvert-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// record is one line of ztunnel's log about a connection that ended.
type record map[string]any

// records returns those of a node's ztunnel so far, of connections that ended well or not.
func (m *mesh) records(node string) []record {
	m.t.Helper()
	f, err := os.Open(m.log(node, "ztunnel"))
	if err != nil {
		m.t.Fatal(err)
	}
	defer f.Close()
	var found []record
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r record
		if json.Unmarshal(lines.Bytes(), &r) == nil && strings.HasPrefix(fmt.Sprint(r["message"]), "connection ") {
			found = append(found, r)
		}
	}
	return found
}

// last is the end of a file, for people.
func last(path string, lines int) string {
	out, _ := exec.Command("tail", "--lines", fmt.Sprint(lines), path).Output()
	return string(out)
}

func TestPodsOfALabelledNamespaceTalkInTheMesh(t *testing.T) {
	c := useShared(t)
	m := startMesh(c)
	t.Cleanup(func() { c.mustKubectl("label", "namespace", "default", "culvert.dev/mesh-") })
	c.makeWeb()
	c.mustKubectl("label", "namespace", "default", "culvert.dev/mesh=enabled")
	m.awaitEnrolled("default")
	c.hearBothNodes("asker1", "http://web")
	eventually(t, func() error {
		paths := make(map[string]bool)
		for _, r := range m.records("node1") {
			if r["direction"] == "outbound" && r["src.workload"] == "asker1" && r["result"] == "ok" {
				paths[fmt.Sprint(r["path"])] = true
			}
		}
		if !paths["tunnel"] || !paths["local"] || len(paths) != 2 {
			return fmt.Errorf("asker1's connections went by %v, want tunnel and local", paths)
		}
		return nil
	})
}

// awaitEnrolled waits until the kernel of each node confirms all running pods of a
// namespace in the mesh.
func (r *running) awaitEnrolled(namespace string) {
	r.t.Helper()
	eventually(r.t, func() error {
		pods, err := r.kubectl("get", "pods", "--namespace="+namespace, "--field-selector=status.phase=Running",
			`--output=jsonpath={range .items[?(@.spec.hostNetwork!=true)]}{.spec.nodeName} {.metadata.uid}{"\n"}{end}`)
		if err != nil {
			return err
		}
		dumps := make(map[string]string)
		for _, node := range bothNodes {
			if dumps[node], err = r.tryEnter(node, "curl", "--silent", "--fail", "http://127.0.0.1:15000/config_dump"); err != nil {
				return err
			}
		}
		return enrolled(pods, dumps)
	})
}

// enrolled is an error unless the node of each pod, given as lines "node uid", says in
// its dump that it is served, and has its certificate.
func enrolled(pods string, dumps map[string]string) error {
	type state struct {
		State, Reason string
		Certificate   struct{ State string }
	}
	states := make(map[string]map[string]state)
	for node, text := range dumps {
		var dump struct{ WorkloadState map[string]state }
		if err := json.Unmarshal([]byte(text), &dump); err != nil {
			return fmt.Errorf("the dump of %s: %w", node, err)
		}
		states[node] = dump.WorkloadState
	}
	for line := range strings.Lines(pods) {
		node, uid, _ := strings.Cut(strings.TrimSpace(line), " ")
		if s := states[node][uid]; s.State != "enrolled" || s.Certificate.State != "valid" {
			return fmt.Errorf("pod %s of %s: %+v", uid, node, s)
		}
	}
	return nil
}
