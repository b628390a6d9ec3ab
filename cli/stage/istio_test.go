// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/cli/speed"
	"github.com/culvert-mesh/culvert/cli/stage/stagetest"
)

// taken has pods run, and those of Istio's namespace be taken in by its agent.
func taken(p *corev1.Pod) {
	if stagetest.Runs(p); strings.HasSuffix(p.Namespace, besides) {
		p.Annotations = map[string]string{redirection: "enabled"}
	}
}

func TestAStageAgainstIstioHasAPairInEachMesh(t *testing.T) {
	s, k := newStage(t, taken)
	s.Istio = true
	k.InstallIstio(2, 2)
	targets, err := s.Build(t.Context())
	if err != nil || len(k.Pods) != 9 || s.Targets() != 6 {
		t.Fatalf("%v; %d pods, %d targets", err, len(k.Pods), s.Targets())
	}
	var names []string
	for _, target := range targets {
		names = append(names, target.Name)
		if kind, place, _ := strings.Cut(target.Name, "-"); kind == "istio" && target.Base != "plain-"+place {
			t.Errorf("%s is compared with %q", target.Name, target.Base)
		}
	}
	if want := []string{"plain-one-node", "mesh-one-node", "istio-one-node", "plain-two-nodes", "mesh-two-nodes", "istio-two-nodes"}; !slices.Equal(names, want) {
		t.Errorf("columns %v, want %v", names, want)
	}
	ours, istios := k.Namespaces["culvert-bench"].Labels, k.Namespaces["culvert-bench-istio"].Labels
	if ours[istioLabel] != "" || ours[meshLabel] != "" {
		t.Errorf("the namespace without Istio is labelled %v", ours)
	}
	if istios[istioLabel] != "ambient" || istios[meshLabel] != "disabled" {
		t.Errorf("Istio's namespace is labelled %v", istios)
	}
	for name, pod := range k.Pods {
		istio := strings.HasPrefix(name, "istio-")
		if want := map[bool]string{true: "culvert-bench-istio", false: "culvert-bench"}[istio]; pod.Namespace != want {
			t.Errorf("%s is in namespace %s", name, pod.Namespace)
		}
		if istio && pod.Labels[meshLabel] != "disabled" {
			t.Errorf("%s may be in Culvert's mesh: %v", name, pod.Labels)
		}
	}
	if err := s.Remove(t.Context()); err != nil || len(k.Namespaces) != 0 {
		t.Errorf("left: %v, %v", k.Namespaces, err)
	}
}

// The three kinds take turns, each time another first, and each is measured from a client of
// its own namespace. Istio's are not told what Culvert's ztunnels used.
func TestKindsTakeTurns(t *testing.T) {
	s, k := newStage(t, taken)
	s.Istio, s.Nodes = true, s.Nodes[:1]
	k.InstallIstio(2, 2)
	targets, err := s.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var asked []string
	s.Exec = func(_ context.Context, namespace, pod, _ string, command []string) ([]byte, error) {
		asked = append(asked, namespace+"/"+pod)
		if costs := slices.Contains(command, "--metrics"); costs == (pod == "istio-client") {
			t.Errorf("%s asks for costs: %v", pod, costs)
		}
		return []byte(`{"rows": [{"results": [{"median": 1}]}]}`), nil
	}
	_, err = speed.Plan{Targets: targets, Rows: []speed.Row{{Kind: speed.Request, Connections: 1}}, Turns: 2, Each: time.Second, Take: s.Take, Tell: func(string) {}}.Run(t.Context())
	const plain, mesh, istio = "culvert-bench/plain-client", "culvert-bench/mesh-client", "culvert-bench-istio/istio-client"
	if want := []string{plain, mesh, istio, mesh, istio, plain}; err != nil || !slices.Equal(asked, want) {
		t.Errorf("%v: %v, want %v", err, asked, want)
	}
}

// Without Istio nothing is made, and a ztunnel of Culvert's own is not taken for Istio's.
func TestWithoutIstioNothingIsMade(t *testing.T) {
	for want, ready := range map[string][]int32{
		"no DaemonSet ztunnel and istio-cni-node of Istio": {0, 0},
		"no DaemonSet ztunnel of Istio":                    {0, 1},
		"no DaemonSet istio-cni-node of Istio":             {1, 0},
	} {
		s, k := newStage(t, taken)
		s.Istio = true
		k.InstallIstio(ready[0], ready[1])
		_, err := s.Build(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "profile=ambient") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, want %s", err, want)
		}
		if len(k.Namespaces) != 0 {
			t.Errorf("it made %v", k.Namespaces)
		}
	}
}

func TestAPodThatIstioHasNotTakenInIsTold(t *testing.T) {
	t.Parallel()
	s, k := newStage(t, stagetest.Runs)
	s.Istio, s.Wait = true, 5*time.Second
	k.InstallIstio(1, 1)
	if _, err := s.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "istio-client: Istio's agent has not taken it") {
		t.Error(err)
	}
}
