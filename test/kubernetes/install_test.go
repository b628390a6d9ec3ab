// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The plugin comes to a running node and leaves it again, under a real kubelet and
// containerd and without a ztunnel. node2 stays without it.
func TestThePluginIsInstalledOnANodeAndTakenAway(t *testing.T) {
	c := useShared(t)
	plugin := buildPlugin(t)
	stop := c.install("node1", plugin)

	c.makePod("held")
	eventually(t, func() error {
		return c.tellsOf("default", "held", "pod default/held may not start: ztunnel did not answer")
	})
	eventually(t, func() error {
		return c.tellsOf("default", "held", "start or repair ztunnel on this pod's node")
	})
	c.leaveSnapshot("node1")
	c.mustKubectl("wait", "--for=condition=Ready", "pod/held", "--timeout=60s") // by itself

	if out, err := c.uninstall("node1", plugin); err == nil || !strings.Contains(out, "in use by another culvert-cni install") {
		t.Errorf("uninstall beside an installer: %v, %s", err, out)
	}
	stop()
	if !c.chains("node1") {
		t.Error("the end of the installer took the plugin out")
	}

	if out, err := c.uninstall("node1", plugin); err != nil || !strings.Contains(out, `"pods":1`) {
		t.Errorf("uninstall beside a pod that was started with the plugin: %v, %s", err, out)
	}
	if c.chains("node1") {
		t.Error("the plugin is still in the list")
	}
	c.mustKubectl("delete", "pod", "held", "--grace-period=1", "--timeout=60s")
	if out, err := c.uninstall("node1", plugin); err != nil {
		t.Errorf("%v, %s", err, out)
	}
	if left := c.enter("node1", "ls", "/opt/cni/bin"); strings.Contains(left, "culvert") {
		t.Errorf("the program is still there: %s", left)
	}
	c.makePod("free")
	c.mustKubectl("wait", "--for=condition=Ready", "pod/free", "--timeout=60s")
}

// buildPlugin builds the plugin as it ships.
func buildPlugin(t *testing.T) string {
	t.Helper()
	path := filepath.Join(filepath.Dir(program), "culvert-cni")
	build := exec.Command("go", "build", "-C", "../..", "-o", path, "./cmd/culvert-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// install runs the installer on a node until stop, and returns once the plugin is
// in the list. The end of the test takes all away.
func (r *running) install(node, plugin string) (stop func()) {
	r.t.Helper()
	stop = r.runOn(node, "culvert-cni", plugin, "install", "-metrics-address", "127.0.0.1:15022")
	r.t.Cleanup(func() {
		stop()
		_, _ = r.kubectl("delete", "pod", "held", "free", "--ignore-not-found", "--grace-period=1")
		if out, err := r.uninstall(node, plugin); err != nil {
			r.t.Errorf("%v, %s", err, out)
		}
		r.enter(node, "rm", "-rf", "/run/culvert", insideMesh+"/culvert-cni.log")
	})
	eventually(r.t, func() error {
		if !r.chains(node) {
			return errors.New("the plugin is not in the list")
		}
		return nil
	})
	return stop
}

func (r *running) uninstall(node, plugin string) (string, error) {
	out, err := exec.Command(program, "enter", "-name", r.name, node, plugin, "uninstall").CombinedOutput()
	return string(out), err
}

// chains says whether the node's list of plugins has the plugin.
func (r *running) chains(node string) bool {
	r.t.Helper()
	return strings.Contains(r.enter(node, "sh", "-c", "cat /etc/cni/net.d/*"), `"culvert-cni"`)
}

// leaveSnapshot makes the plugin believe that a ztunnel was there, and knew
// nothing to be in the mesh.
func (r *running) leaveSnapshot(node string) {
	r.t.Helper()
	const snapshot = `{"generation":1,"written":"2026-01-01T00:00:00Z","meshedNamespaces":[],"allNamespaces":["default","kube-system"]}`
	r.enter(node, "sh", "-c", "umask 077 && mkdir -p /run/culvert && echo '"+snapshot+"' >/run/culvert/snapshot.json")
}

func (r *running) makePod(name string) {
	r.t.Helper()
	eventually(r.t, func() error { // the namespace may not have its ServiceAccount yet
		_, err := r.kubectl("run", name, "--image=localhost/podapp:1", `--overrides={"spec":{"nodeName":"node1"}}`)
		return err
	})
}

// tellsOf says whether an event of the pod has the text.
func (r *running) tellsOf(namespace, pod, text string) error {
	events, err := r.kubectl("get", "events", "--namespace="+namespace, "--field-selector=involvedObject.name="+pod, "--output=jsonpath={.items[*].message}")
	if err == nil && !strings.Contains(events, text) {
		err = fmt.Errorf("no event of %s has %q: %s", pod, text, events)
	}
	return err
}
