// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
)

func TestTwoNodesAreReady(t *testing.T) {
	c := useShared(t)
	got := c.mustKubectl("get", "nodes", "--output",
		`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status} {.status.nodeInfo.kubeletVersion} {.spec.podCIDR}{"\n"}{end}`)
	lines := strings.Split(got, "\n")
	if len(lines) != 2 {
		t.Fatalf("want two nodes, got %q", got)
	}
	prefixes := make(map[string]bool)
	for i, line := range lines {
		var name, ready, version, pods string
		if _, err := fmt.Sscan(line, &name, &ready, &version, &pods); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if name != fmt.Sprintf("node%d", i+1) || ready != "True" || !strings.HasPrefix(version, "v1.") || version == "v1.0.0" {
			t.Errorf("node %d: %q", i+1, line)
		}
		prefixes[pods] = true
	}
	if len(prefixes) != 2 {
		t.Errorf("the nodes share a prefix of pods: %q", got)
	}
}

func TestPodsTalkAcrossNodesAndByServiceName(t *testing.T) {
	c := useShared(t)
	c.makeWeb()
	pods := strings.Fields(c.mustKubectl("get", "pods", "--selector=app=web", "--output",
		`jsonpath={range .items[*]}{.spec.nodeName}={.status.podIPs[0].ip} {.spec.nodeName}={.status.podIPs[1].ip} {end}`))
	services := strings.Fields(c.mustKubectl("get", "service", "web", "--output=jsonpath={.spec.clusterIPs[0]} {.spec.clusterIPs[1]}"))
	if len(pods) != 4 || len(services) != 2 {
		t.Fatalf("want an IPv4 and an IPv6 address of each pod and of the Service, got %q, %q", pods, services)
	}
	for _, asker := range []string{"asker1", "asker2"} {
		for _, pod := range pods {
			node, addr, _ := strings.Cut(pod, "=")
			url := "http://" + net.JoinHostPort(addr, "8080")
			if answer := c.mustKubectl("exec", asker, "--", "/bin/podapp", "get", url); !strings.HasPrefix(answer, node+" ") {
				t.Errorf("%s asked the pod of %s at %s, and heard %q", asker, node, addr, answer)
			}
		}
		for _, name := range append(services, "web", "web.default.svc.cluster.local") {
			c.hearBothNodes(asker, "http://"+net.JoinHostPort(name, "80"))
		}
	}
}

func TestAPodsMemoryLimitIsInTheKernel(t *testing.T) {
	c := useShared(t)
	c.makeWeb() // whose pods are limited to 64 MiB
	const find = `find /sys/fs/cgroup -path '*/kubepods*' \( -name memory.limit_in_bytes -o -name memory.max \) -exec grep -lx 67108864 {} +`
	for _, node := range []string{"node1", "node2"} {
		if got := c.enter(node, "sh", "-c", find); got == "" {
			t.Errorf("no cgroup of a pod of %s has the limit", node)
		}
	}
}

// makeWeb makes the pods of testdata/web.yaml, and waits until they are ready.
func (r *running) makeWeb() {
	r.t.Helper()
	r.t.Cleanup(func() {
		_, _ = r.kubectl("delete", "--filename=testdata/web.yaml", "--grace-period=1")
	})
	r.awaitServiceAccount()
	r.mustKubectl("apply", "--filename=testdata/web.yaml")
	r.mustKubectl("rollout", "status", "deployment/web", "--timeout=60s")
	r.mustKubectl("wait", "--for=condition=Ready", "pod/asker1", "pod/asker2", "--timeout=60s")
}

// awaitServiceAccount waits until the namespace has its own: a pod that comes earlier is
// refused.
func (r *running) awaitServiceAccount() {
	r.t.Helper()
	eventually(r.t, func() error {
		_, err := r.kubectl("get", "serviceaccount", "default")
		return err
	})
}

// hearBothNodes asks until it has heard the pods of both nodes. kube-proxy's rules follow
// a pod's readiness by a moment.
func (r *running) hearBothNodes(asker, url string) {
	r.t.Helper()
	heard := make(map[string]bool)
	eventually(r.t, func() error {
		answer, err := r.kubectl("exec", asker, "--", "/bin/podapp", "get", url)
		if err != nil {
			return err
		}
		node, _, _ := strings.Cut(answer, " ")
		heard[node] = true
		if !heard["node1"] || !heard["node2"] {
			return fmt.Errorf("%s asked %s, and heard only %v", asker, url, heard)
		}
		return nil
	})
}
