// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/stage/stagetest"
)

// twoNodes is a cluster whose API server has the pods of ztunnel beside those that are
// made.
func twoNodes(start func(*corev1.Pod)) *stagetest.Server {
	k := stagetest.New(start)
	for _, node := range []string{"node1", "node2"} {
		pod := corev1.Pod{Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "ztunnel", Image: "example.com/mesh/ztunnel:v1"}}}}
		stagetest.Runs(&pod)
		pod.Status.HostIP = "192.0.2.1"
		k.Pods["ztunnel-"+node] = pod
	}
	return k
}

func benchCluster(ctx context.Context, t *testing.T, k *stagetest.Server, args ...string) (code int, stderr string) {
	var out, complaint bytes.Buffer
	code = Run(ctx, Process{
		Args: append([]string{"culvert", "bench", "cluster", "--kubeconfig", clitest.Kubeconfig(t, k, t.TempDir())}, args...), Stdout: &out, Stderr: &complaint,
	})
	return code, complaint.String()
}

func TestAClusterIsMeasuredOnlyIfOneIsSure(t *testing.T) {
	k := twoNodes(stagetest.Runs)
	code, said := benchCluster(t.Context(), t, k)
	if code != exitFail || len(k.Namespaces) != 0 ||
		!strings.Contains(said, "pods of example.com/mesh/culvert:v1 in the namespace culvert-bench on node1 and node2, and loads these nodes for 2m0s") {
		t.Errorf("%d: %s; %v", code, said, k.Namespaces)
	}
	for want, args := range map[string][]string{
		"--nodes node3: no ztunnel is ready there":        {"--nodes", "node3"},
		"3 nodes: want one or two":                        {"--nodes", "a,b,c"},
		`--rows "udp-1"`:                                  {"--rows", "udp-1"},
		"want 1s at least":                                {"--per-row", "5s"},
		`--against "linkerd": want istio`:                 {"--against", "linkerd"},
		"--turns 0":                                       {"--turns", "0"},
		"pods of x/y in the namespace a on node2, and lo": {"--image", "x/y", "--bench-namespace", "a", "--nodes", "node2"},
	} {
		if code, said := benchCluster(t.Context(), t, k, args...); code != exitFail || !strings.Contains(said, want) {
			t.Errorf("%v: %d, %s; want %s", args, code, said, want)
		}
	}
}

// Whatever ends it, what it made is removed, and nothing else.
func TestWhatABenchMadeIsRemovedHoweverItEnds(t *testing.T) {
	for name, c := range map[string]struct {
		interrupt bool
		says      string
	}{
		"clients that cannot be reached": {false, "in pod mesh-client"}, // nobody answers exec here
		"an interrupt":                   {true, "context canceled"},
		"no answer":                      {false, "make namespace culvert-bench: "},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			made := map[string]bool{}
			k := twoNodes(func(p *corev1.Pod) {
				made[p.Name] = true
				if stagetest.Runs(p); c.interrupt {
					p.Status.Phase = corev1.PodPending
					cancel()
				}
			})
			if name == "no answer" {
				k.Drops = func(*corev1.Namespace) bool { return true }
			}
			code, said := benchCluster(ctx, t, k, "--yes", "--rows", "request-1", "--turns", "1")
			if code != exitFail || !strings.Contains(said, c.says) || len(k.Namespaces) != 0 {
				t.Errorf("%d: %s; left: %v", code, said, k.Namespaces)
			}
			if k.Drops == nil && (len(made) == 0 || !c.interrupt && len(made) != 6) {
				t.Errorf("it made %v: %s", slices.Sorted(maps.Keys(made)), said)
			}
		})
	}
}

func TestIstioIsAskedForBeforePodsAreMade(t *testing.T) {
	k := twoNodes(stagetest.Runs)
	code, said := benchCluster(t.Context(), t, k, "--against", "istio")
	if code != exitFail || !strings.Contains(said, "loads these nodes for 2m0s") {
		t.Errorf("%d: %s", code, said)
	}
	code, said = benchCluster(t.Context(), t, k, "--against", "istio", "--yes")
	if code != exitFail || !strings.Contains(said, "no DaemonSet ztunnel and istio-cni-node of Istio has a pod that is ready") || len(k.Namespaces) != 0 {
		t.Errorf("%d: %s; %v", code, said, k.Namespaces)
	}
}
