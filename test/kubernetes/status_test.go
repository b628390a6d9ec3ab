// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Pods that are older than their label show how they are, in words that the real API
// server took.
func TestPodsShowHowTheyAreToKubectl(t *testing.T) {
	m := startMesh(useShared(t))
	eventually(t, func() error { // a namespace may not have its ServiceAccount yet
		_, err := m.kubectl("apply", "--filename=testdata/told.yaml")
		return err
	})
	t.Cleanup(func() { _, _ = m.kubectl("delete", "namespace", "told", "--grace-period=1") })
	m.mustKubectl("wait", "--for=condition=Ready", "pod", "--all", "--namespace=told", "--timeout=60s")
	m.mustKubectl("annotate", "pod", "private", "--namespace=told", "culvert.dev/status=verified")
	m.shows("private", "")

	start := time.Now()
	m.mustKubectl("label", "namespace", "told", "culvert.dev/mesh=enabled")
	m.shows("web", "verified")
	t.Logf("verified for everybody to see after %v", time.Since(start).Round(time.Millisecond))
	m.shows("host", "outside: hostNetwork: it is in the network namespace of its node, which is never steered")
	m.hasEvent("Pod", "told", "web", "Normal Enrolled its connections are carried in mutual TLS, as spiffe://cluster.local/ns/told/sa/default 1 culvert-ztunnel")
	m.hasEvent("Pod", "told", "host", "Warning NotEnrolled labels put it in the mesh, but it cannot be enrolled: hostNetwork")
	for _, node := range bothNodes {
		m.hasEvent("Node", "default", node, "Normal MeshReady")
	}
	if described := m.mustKubectl("describe", "node", "node1"); !strings.Contains(described, "MeshReady") {
		t.Errorf("kubectl describe does not find the Node's Event:\n%s", described)
	}

	m.mustKubectl("annotate", "pod", "web", "--namespace=told", "--overwrite", "culvert.dev/status=outside: I say so")
	m.shows("web", "verified")
	if restarts := m.mustKubectl("get", "pod", "web", "--namespace=told", "--output=jsonpath={.status.containerStatuses[0].restartCount}"); restarts != "0" {
		t.Errorf("the pod was restarted %s times", restarts)
	}

	m.mustKubectl("label", "namespace", "told", "culvert.dev/mesh-")
	m.mustKubectl("label", "namespace", "told", "culvert.dev/mesh=disabled")
	m.shows("web", "")
	m.shows("host", "")
	m.hasEvent("Pod", "told", "web", "Normal Unenrolled")
}

// shows waits for the status of a pod of the namespace told.
func (m *mesh) shows(pod, want string) {
	m.t.Helper()
	eventually(m.t, func() error {
		got, err := m.kubectl("get", "pod", pod, "--namespace=told", `--output=jsonpath={.metadata.annotations.culvert\.dev/status}`)
		if err == nil && got != want {
			err = fmt.Errorf("the status of %s is %q, want %q", pod, got, want)
		}
		return err
	})
}

// hasEvent waits for an Event on an object that begins with "TYPE REASON MESSAGE COUNT
// COMPONENT".
func (m *mesh) hasEvent(kind, namespace, name, want string) {
	m.t.Helper()
	eventually(m.t, func() error {
		events, err := m.kubectl("get", "events", "--namespace="+namespace, "--field-selector=involvedObject.kind="+kind+",involvedObject.name="+name,
			`--output=jsonpath={range .items[*]}{.type} {.reason} {.message} {.count} {.source.component}{"\n"}{end}`)
		if err == nil && !strings.Contains("\n"+events, "\n"+want) {
			err = fmt.Errorf("no Event on %s begins with %q:\n%s", name, want, events)
		}
		return err
	})
}

// What a ztunnel may do to Nodes is one thing: the API server refuses all else.
func TestAZtunnelMayTakeItsTaintOffItsNodeAndDoNothingElseToNodes(t *testing.T) {
	c := useShared(t)
	const file = "--filename=../../deploy/chart/testdata/untaint.yaml"
	c.mustKubectl("apply", file)
	// kubectl looks at what it patches.
	c.mustKubectl("create", "clusterrole", "looks-at-nodes", "--verb=get", "--resource=nodes")
	c.mustKubectl("create", "clusterrolebinding", "looks-at-nodes", "--clusterrole=looks-at-nodes", "--serviceaccount=culvert-system:ztunnel")
	t.Cleanup(func() {
		_, _ = c.kubectl("delete", file)
		_, _ = c.kubectl("delete", "clusterrole,clusterrolebinding", "looks-at-nodes")
		_, _ = c.kubectl("taint", "node", "node1", "culvert.dev/not-ready-", "theirs-")
	})
	c.mustKubectl("taint", "node", "node1", "theirs=x:PreferNoSchedule", "culvert.dev/not-ready:PreferNoSchedule")
	as := func(node, patch string) (string, error) {
		return c.kubectl("patch", "node", "node1", "--type=json", "--patch="+patch,
			"--as=system:serviceaccount:culvert-system:ztunnel", "--as-user-extra=authentication.kubernetes.io/node-name="+node)
	}
	untaint := func(key string) string {
		keys := strings.Fields(c.mustKubectl("get", "node", "node1", "--output=jsonpath={.spec.taints[*].key}"))
		for i, k := range keys {
			if k == key {
				return fmt.Sprintf(`[{"op": "remove", "path": "/spec/taints/%d"}]`, i)
			}
		}
		t.Fatalf("no taint %s among %v", key, keys)
		return ""
	}
	const label = `[{"op": "add", "path": "/metadata/labels/drawn", "value": "here"}]`
	const cordon = `[{"op": "add", "path": "/spec/unschedulable", "value": true}]`
	const more = `[{"op": "add", "path": "/spec/taints/-", "value": {"key": "culvert.dev/not-ready", "effect": "NoExecute"}}]`

	eventually(t, func() error { // the policy takes a moment
		if _, err := as("node1", label); !strings.Contains(fmt.Sprint(err), "may change nothing of a Node but its taint") {
			return fmt.Errorf("a label: %v", err)
		}
		return nil
	})
	for _, refused := range []struct{ node, patch, why string }{
		{"node1", cordon, "may change nothing of a Node but its taint"},
		{"node1", more, "may take the taint culvert.dev/not-ready off, and change no other"},
		{"node1", untaint("theirs"), "may take the taint culvert.dev/not-ready off, and change no other"},
		{"node2", untaint("culvert.dev/not-ready"), "may change the Node that it runs on, and no other"},
	} {
		if _, err := as(refused.node, refused.patch); !strings.Contains(fmt.Sprint(err), refused.why) {
			t.Errorf("%s by the ztunnel of %s: %v", refused.patch, refused.node, err)
		}
	}
	if _, err := as("node1", untaint("culvert.dev/not-ready")); err != nil {
		t.Error(err)
	}
	if taints := c.mustKubectl("get", "node", "node1", "--output=jsonpath={.spec.taints[*].key}"); taints != "theirs" {
		t.Errorf("taints left: %s", taints)
	}
}
