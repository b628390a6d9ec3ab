// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
	"github.com/culvert-mesh/culvert/cli/speed"
	"github.com/culvert-mesh/culvert/cli/stage/stagetest"
)

func newStage(t *testing.T, start func(*corev1.Pod)) (*Stage, *stagetest.Server) {
	k := stagetest.New(start)
	api, err := kubeapi.Open(clitest.Kubeconfig(t, k, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	return &Stage{
		API: api, Namespace: "culvert-bench", Image: "example.com/culvert:v1", Wait: time.Minute, Lasts: time.Hour, Costs: true,
		Nodes: []Node{{"node1", "192.0.2.1"}, {"node2", "2001:db8::2"}},
	}, k
}

func TestAStageIsBuiltMeasuredAndTakenAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- speed.Serve(ctx, ln) }()
	defer func() { cancel(); <-ended }()

	s, k := newStage(t, stagetest.Runs)
	var commands []string
	s.Exec = func(ctx context.Context, namespace, pod, container string, command []string) ([]byte, error) {
		commands = append(commands, namespace+"/"+pod+" "+container+": "+strings.Join(command, " "))
		report, err := speed.Plan{
			Targets: []speed.Target{{Name: command[3], Address: ln.Addr().String()}}, Rows: []speed.Row{{Kind: speed.Request, Connections: 1}},
			Turns: 1, Each: time.Millisecond, Tell: func(string) {},
		}.Run(ctx)
		if err != nil {
			return nil, err
		}
		return json.Marshal(report)
	}
	targets, err := s.Build(t.Context())
	if err != nil || s.Targets() != 4 || len(targets) != 4 || len(k.Pods) != 6 {
		t.Fatalf("%v, %v; %d pods", targets, err, len(k.Pods))
	}
	for name, node := range map[string]string{"plain-client": "node1", "mesh-client": "node1", "plain-one-node": "node1", "mesh-one-node": "node1", "plain-two-nodes": "node2", "mesh-two-nodes": "node2"} {
		pod := k.Pods[name]
		want := map[bool]string{true: "enabled", false: "disabled"}[strings.HasPrefix(name, "mesh")]
		if pod.Spec.NodeName != node || pod.Labels[meshLabel] != want || pod.Spec.Containers[0].Image != s.Image || *pod.Spec.ActiveDeadlineSeconds < 3600 {
			t.Errorf("%s: on %s, mesh %s: %+v", name, pod.Spec.NodeName, pod.Labels[meshLabel], pod.Spec)
		}
	}
	for _, target := range targets {
		kind, place, _ := strings.Cut(target.Name, "-")
		if base := map[string]string{"mesh": "plain-" + place}[kind]; target.Base != base {
			t.Errorf("%s is compared with %q", target.Name, target.Base)
		}
		turn, err := s.Take(t.Context(), speed.Row{Kind: speed.Request, Connections: 2}, target, 2*time.Second)
		if err != nil || turn.Value <= 0 || turn.Half <= 0 {
			t.Errorf("%+v, %v", turn, err)
		}
	}
	want := "culvert-bench/mesh-client culvert: /bin/culvert bench run " + targets[3].Address +
		" --rows request-2 --turns 1 --per-row 2s --output json --quiet --metrics http://192.0.2.1:15020/metrics --metrics http://[2001:db8::2]:15020/metrics"
	if len(commands) != 4 || commands[3] != want {
		t.Errorf("%q\nwant %s", commands, want)
	}

	second := *s
	second.made = nil
	if _, err := second.Build(t.Context()); err == nil || !strings.Contains(err.Error(), "culvert bench clean") {
		t.Errorf("a second one: %v", err)
	}
	if err := second.Remove(t.Context()); err != nil || len(k.Namespaces) != 1 {
		t.Errorf("the second one removes the first's: %v", err)
	}
	if was, err := Clean(t.Context(), s.API, s.Namespace); err != nil || !was || len(k.Namespaces) != 0 {
		t.Errorf("%v, %v: %v", was, err, k.Namespaces)
	}
	if was, err := Clean(t.Context(), s.API, s.Namespace); err != nil || was {
		t.Errorf("of nothing: %v, %v", was, err)
	}
}

// What keeps a pod from being ready is told by its name.
func TestWhatPodsLackIsTold(t *testing.T) {
	t.Parallel()
	for want, start := range map[string]func(*corev1.Pod){
		"mesh-client: ImagePullBackOff no such image": func(p *corev1.Pod) {
			p.Status = corev1.PodStatus{Phase: corev1.PodPending, ContainerStatuses: []corev1.ContainerStatus{{
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ImagePullBackOff", Message: "no such image"}},
			}}}
		},
		"mesh-client: it is Pending":   func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"mesh-client: it is not ready": func(p *corev1.Pod) { stagetest.Runs(p); p.Status.Conditions = nil },
		"mesh-client: in the mesh, it is pending: no": func(p *corev1.Pod) {
			stagetest.Runs(p)
			p.Annotations = map[string]string{status: "pending: no"}
		},
		"mesh-client: in the mesh, it is not enrolled": func(p *corev1.Pod) { stagetest.Runs(p); p.Annotations = nil },
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			s, _ := newStage(t, start)
			s.Wait = 5 * time.Second
			if _, err := s.Build(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v, want %s", err, want)
			}
		})
	}
}

// A client that fails is named, and what it said is told.
func TestAClientThatFailsIsNamed(t *testing.T) {
	s, _ := newStage(t, stagetest.Runs)
	for said, answer := range map[string]func() ([]byte, error){
		"in pod plain-client: no route": func() ([]byte, error) { return nil, errors.New("no route") },
		`pod plain-client answers "<`:   func() ([]byte, error) { return []byte("<html>"), nil },
		"of 8 bytes 7 arrived": func() ([]byte, error) {
			return []byte(`{"rows": [{"results": [{"problem": "of 8 bytes 7 arrived"}]}]}`), nil
		},
	} {
		s.Exec = func(context.Context, string, string, string, []string) ([]byte, error) { return answer() }
		if _, err := s.Take(t.Context(), speed.Row{Kind: speed.Bulk, Connections: 1}, speed.Target{Name: "plain-one-node"}, time.Second); err == nil || !strings.Contains(err.Error(), said) {
			t.Errorf("%v, want %s", err, said)
		}
	}
}

// Nobody else's namespace is used, or deleted.
func TestAnothersNamespaceStays(t *testing.T) {
	s, k := newStage(t, stagetest.Runs)
	k.Namespaces["culvert-bench"] = corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "culvert-bench"}}
	if _, err := s.Build(t.Context()); err == nil {
		t.Error("it is used")
	}
	if err := s.Remove(t.Context()); err != nil || len(k.Namespaces) != 1 {
		t.Errorf("it is removed: %v", err)
	}
	if _, err := Clean(t.Context(), s.API, s.Namespace); err == nil || len(k.Namespaces) != 1 {
		t.Errorf("it is deleted: %v", err)
	}
}
