// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/test/kubernetes/cluster"
)

// What Kubernetes does with pods goes on where the whole mesh is STRICT.
func TestKubernetesWorksWithPodsWhereTheMeshIsStrict(t *testing.T) {
	m := useMesh(t)
	m.makeNamespace("istio-system")
	m.police("istio-system", "STRICT")
	m.makeNamespace("outside")
	m.makePodIn("outside", "stranger", "node1")
	s := m.openShop("strict")
	s.join()
	m.mustKubectl("wait", "--namespace=outside", "--for=condition=Ready", "pod/stranger", "--timeout=60s")
	eventually(t, func() error { return s.letsIn("outside", "stranger", false) })

	text, err := os.ReadFile("testdata/strict.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := m.apply(string(text), "--namespace="+s.namespace); err != nil {
		t.Fatal(err)
	}
	t.Run("a Job that dials at once ends well", func(*testing.T) {
		s.kubectlHere("wait", "--for=condition=Complete", "job", "--all", "--timeout=60s")
	})
	t.Run("probes by HTTP, TCP, gRPC and a command", func(t *testing.T) {
		s.kubectlHere("wait", "--for=condition=Ready", "pod", "--selector=probed", "--timeout=60s")
		restarts := s.kubectlHere("get", "pods", "--selector=probed", "--output=jsonpath={.items[*].status.containerStatuses[*].restartCount}")
		if strings.Trim(restarts, "0 ") != "" {
			t.Errorf("probes failed, and containers were restarted: %s times", restarts)
		}
	})
	t.Run("an init container that dials at once", func(*testing.T) {
		s.kubectlHere("wait", "--for=condition=Ready", "pod", "--selector=early", "--timeout=60s")
	})
	t.Run("exec, logs and the API server by its Service and by DNS", func(t *testing.T) {
		version := s.kubectlHere("exec", "client", "--container=load", "--", "/bin/podapp", "get", "https://kubernetes.default.svc.cluster.local/version")
		if !strings.Contains(version, "gitVersion") {
			t.Errorf("the API server says %q", version)
		}
		if said := s.kubectlHere("logs", "client", "--container=load", "--tail=1"); !strings.Contains(said, "second") {
			t.Errorf("logs say %q", said)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		s.forward("far", 8080)
	})
}

// forward asks a pod by kubectl port-forward.
func (s *shop) forward(pod string, port int) {
	s.t.Helper()
	cmd := exec.Command(filepath.Join(s.binaries, "kubectl"), "--kubeconfig="+cluster.Kubeconfig(s.name),
		"port-forward", "--namespace="+s.namespace, "pod/"+pod, fmt.Sprintf(":%d", port))
	said, err := cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		s.t.Fatalf("port-forward: %v", err)
	}
	address, _, _ := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	response, err := http.Get("http://" + address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		s.t.Errorf("port-forward: %s", response.Status)
	}
}
