// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
)

func TestPodWithoutACertificateDoesNotLookWell(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.process("web")
	w.add(req, enroll.Enrolled)
	w.add(w.pod("plain", "10.1.0.2", false), enroll.Ignore)
	w.eventually("the kernel confirms it", func() bool { return w.pods.Enrollment().Verified == 1 })
	if e := w.pods.Enrollment(); e.Intended != 1 || e.Enrolled != 1 || e.Certified != 0 {
		t.Errorf("%+v, want one enrolled and none certified", e)
	}
	dump := w.pods.Dump()
	if c := dump["web"].Certificate; c == nil || c.State != certs.Missing {
		t.Errorf("certificate of the pod: %+v", c)
	}
	if c := dump["plain"].Certificate; c != nil {
		t.Errorf("certificate of a pod outside the mesh: %+v", c)
	}
	if got, want := dump["web"].Info, (Names{Name: "web", Namespace: "shop", TrustDomain: "cluster.local", ServiceAccount: "web"}); got != want {
		t.Errorf("the pod is called %+v, want %+v", got, want)
	}
}

// A pod that fills its netns is being looked at for as long as it likes.
func TestWhoeverTellsOfPodsWaitsForNone(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	pod.mu.Lock()
	defer pod.mu.Unlock()
	pod.member.forwarding.mu.Lock()
	defer pod.member.forwarding.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		if e := w.pods.Enrollment(); e.Enrolled != 1 {
			t.Errorf("%+v, want one enrolled", e)
		}
		if got := w.pods.Dump()["web"].State; got != "enrolled" {
			t.Errorf("the pod is %s", got)
		}
		if replaced, err := w.pods.KeepRecords(); replaced || err != nil {
			t.Errorf("records: replaced %v, %v", replaced, err)
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("they wait")
	}
}

func TestNodeNameThatNoPodHasIsSaid(t *testing.T) {
	for _, meshed := range []bool{true, false} {
		w := newWorld(t)
		w.cfg.Node = "there"
		w.start()
		if got := w.pods.Misplaced(); got != "" {
			t.Errorf("an empty node: %s", got)
		}
		verdict := enroll.Ignore
		if meshed {
			verdict = enroll.Block
		}
		w.add(w.pod("web", "10.1.0.1", meshed), verdict)
		if got := w.pods.Misplaced(); !strings.Contains(got, `"there"`) || !strings.Contains(got, "here") {
			t.Errorf("meshed=%v: %q", meshed, got)
		}
		w.pod("db", "10.1.0.2", false)
		w.workloads[1].Node = "there"
		w.replace()
		if got := w.pods.Misplaced(); got != "" {
			t.Errorf("a pod has the name: %s", got)
		}
		w.kill()
	}
}

// A pod that the objects do not know yet proves nothing about the node's name.
func TestUnknownPodDoesNotDenyTheNodesName(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", false)
	w.workloads = nil
	w.replace()
	w.add(req, enroll.Ignore)
	if got := w.pods.Misplaced(); got != "" {
		t.Errorf("%s", got)
	}
}
