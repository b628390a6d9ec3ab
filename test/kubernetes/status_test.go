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

// asZtunnel returns what patches as the ztunnel of a node, with the rights that it has as
// it is shipped.
func (r *running) asZtunnel() (patch func(node string, flags ...string) error) {
	r.t.Helper()
	const file = "--filename=../../deploy/chart/testdata/bounds.yaml"
	r.mustKubectl("apply", file)
	// kubectl looks at what it patches.
	r.mustKubectl("create", "clusterrole", "looks", "--verb=get", "--resource=nodes,pods,pods/status")
	r.mustKubectl("create", "clusterrolebinding", "looks", "--clusterrole=looks", "--serviceaccount=culvert-system:ztunnel")
	r.t.Cleanup(func() {
		_, _ = r.kubectl("delete", file)
		_, _ = r.kubectl("delete", "clusterrole,clusterrolebinding", "looks")
	})
	return func(node string, flags ...string) error {
		_, err := r.kubectl(append([]string{"patch", "--as=system:serviceaccount:culvert-system:ztunnel",
			"--as-user-extra=authentication.kubernetes.io/node-name=" + node}, flags...)...)
		return err
	}
}

// refusedAs waits until a refusal has the text: policies take a moment.
func refusedAs(t *testing.T, text string, do func() error) {
	t.Helper()
	eventually(t, func() error {
		if err := do(); !strings.Contains(fmt.Sprint(err), text) {
			return fmt.Errorf("want a refusal that says %q, got %v", text, err)
		}
		return nil
	})
}

// Of a pod a ztunnel may write one annotation, and the API server refuses all else.
func TestAZtunnelMayAnnotateThePodsOfItsNodeAndDoNothingElseToPods(t *testing.T) {
	c := useShared(t)
	c.makeWeb()
	c.mustKubectl("wait", "--for=condition=Ready", "pod/asker1", "--timeout=60s")
	patch := c.asZtunnel()
	to := func(node, change string) func() error {
		return func() error {
			return patch(node, "pod", "asker1", "--subresource=status", "--type=merge", "--patch="+change)
		}
	}
	const ours = `{"metadata":{"annotations":{"culvert.dev/status":"verified"}}}`
	refusedAs(t, "may tell of the pods of its own node, and of no others", to("node2", ours))
	refusedAs(t, "nothing of its status", to("node1", `{"status":{"podIP":"10.244.0.99","podIPs":[{"ip":"10.244.0.99"}]}}`))
	refusedAs(t, "nothing of its status", to("node1", `{"status":{"conditions":[]}}`))
	refusedAs(t, "change nothing else of a pod", to("node1", `{"metadata":{"annotations":{"culvert.dev/status":"verified","theirs":"x"}}}`))
	refusedAs(t, "change nothing else of a pod", to("node1", `{"metadata":{"labels":{"app":"web"}}}`))
	if err := to("node1", ours)(); err != nil {
		t.Error(err)
	}
	if err := to("node1", `{"metadata":{"annotations":{"culvert.dev/status":null}}}`)(); err != nil {
		t.Error(err)
	}
	if err := patch("node1", "pod", "asker1", "--type=merge", "--patch="+ours); !strings.Contains(fmt.Sprint(err), `cannot patch resource "pods"`) {
		t.Errorf("the pod itself: %v", err)
	}
}

// What a ztunnel may do to Nodes is one thing: the API server refuses all else.
func TestAZtunnelMayTakeItsTaintOffItsNodeAndDoNothingElseToNodes(t *testing.T) {
	c := useShared(t)
	patch := c.asZtunnel()
	t.Cleanup(func() {
		for _, taint := range []string{"culvert.dev/not-ready-", "theirs-"} {
			_, _ = c.kubectl("taint", "node", "node1", taint)
		}
		_, _ = c.kubectl("label", "node", "node1", "drawn-")
	})
	c.mustKubectl("taint", "node", "node1", "--overwrite", "theirs=x:PreferNoSchedule", "culvert.dev/not-ready:PreferNoSchedule")
	as := func(node, change string) func() error {
		return func() error { return patch(node, "node", "node1", "--type=json", "--patch="+change) }
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
	tries := 0
	label := func() error { // each time another: what came through before the policy was in force changes nothing again
		tries++
		return as("node1", fmt.Sprintf(`[{"op": "add", "path": "/metadata/labels/drawn", "value": "here-%d"}]`, tries))()
	}
	const cordon = `[{"op": "add", "path": "/spec/unschedulable", "value": true}]`
	const more = `[{"op": "add", "path": "/spec/taints/-", "value": {"key": "culvert.dev/not-ready", "effect": "NoExecute"}}]`

	refusedAs(t, "may change nothing of a Node but its taint", label)
	refusedAs(t, "may change nothing of a Node but its taint", as("node1", cordon))
	refusedAs(t, "may take the taint culvert.dev/not-ready off, and change no other", as("node1", more))
	refusedAs(t, "may take the taint culvert.dev/not-ready off, and change no other", as("node1", untaint("theirs")))
	refusedAs(t, "may change the Node that it runs on, and no other", as("node2", untaint("culvert.dev/not-ready")))
	if err := as("node1", untaint("culvert.dev/not-ready"))(); err != nil {
		t.Error(err)
	}
	if taints := c.mustKubectl("get", "node", "node1", "--output=jsonpath={.spec.taints[*].key}"); taints != "theirs" {
		t.Errorf("taints left: %s", taints)
	}
}
