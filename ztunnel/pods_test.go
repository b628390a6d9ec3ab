// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"context"
	"errors"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

func TestALabelThatWentWhileNoZtunnelWasHereLetsThePodGo(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.want("web", carried)
	w.kill()
	w.want("web", refused)
	w.label("web", false)
	w.start()
	w.eventually("the pod is let go", func() bool { return w.connects("web") == released })
}

// A restart that fails, or is itself stopped, leaves its pods refused.
func TestAPodOfAnEarlierRunIsNeverReleasedByAFailure(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.kill()

	w.load()
	w.pods.base = t.Context()
	if err := w.pods.takeOver(); err != nil {
		t.Fatal(err)
	}
	pod, _ := w.pods.byID(req.ContainerID)
	self, _ := w.registry.ByUID("web")
	for i, s := range w.pods.steps() {
		m := &member{sandbox: pod.sandbox, id: self.ID, life: pod.life, adopted: pod.adopted}
		ctx, cancel := context.WithCancel(t.Context())
		steps := w.pods.steps()
		steps[i].do = func(ctx context.Context, m *member) error {
			defer cancel() // an answer nobody waits for any more
			return s.do(ctx, m)
		}
		if err := doSteps(ctx, steps, m); !errors.Is(err, context.Canceled) {
			t.Fatalf("ended after %q: %v", s.name, err)
		}
		if got := w.connects("web"); got != refused {
			t.Errorf("enrolment ended after %q: connections are %s", s.name, got)
		}
		if in, out := w.datapath.Steered(pod.Cookie); !in || !out {
			t.Errorf("enrolment ended after %q: steered inbound %v, outbound %v", s.name, in, out)
		}
	}
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.want("web", carried)
	if err := w.pods.forget(pod); err != nil {
		t.Error(err)
	}
	w.want("web", released)
}

func TestAPodThatWasNotEnrolledAgainLeavesNoTrace(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.kill()
	w.workloads = nil // nobody knows it any more: it stays as it is
	w.start()
	w.want("web", refused)
	if err := w.pods.Del(t.Context(), req); err != nil {
		t.Error(err)
	}
	if in, out := w.datapath.Steered(w.sandboxes["web"].Cookie); in || out {
		t.Errorf("a deleted pod is steered: inbound %v, outbound %v", in, out)
	}
}

func TestAPodWhoseContainersEndedIsNotLetOut(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("job", "10.1.0.1", true), enroll.Enrolled)
	w.workloads[0].Terminated = true
	w.replace()
	pod, _ := w.pods.byID("c-job")
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Error(err)
	}
	w.want("job", carried)
}
