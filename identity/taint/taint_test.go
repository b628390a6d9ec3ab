// SPDX-License-Identifier: Apache-2.0

package taint

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

func TestANodeGetsTheTaintOnceItsZtunnelHasBeenAwayForAMinute(t *testing.T) {
	r := newRig(t, 1)
	r.meshed(3)
	r.node("node-1", "theirs")
	r.after(10 * time.Minute)
	r.wantTainted("")
	r.ztunnel("node-1", false)
	r.after(time.Minute)
	r.wantTainted("")
	r.after(lookEvery)
	r.wantTainted("node-1")
	for _, o := range r.server.Objects("nodes") {
		if taints := o.(*corev1.Node).Spec.Taints; o.GetName() == "node-1" && (len(taints) != 2 || taints[0].Key != "theirs") {
			t.Errorf("taints: %v", taints)
		}
	}
	r.after(10 * time.Minute)
	if n := r.server.Asked("patch nodes"); n != 1 {
		t.Errorf("%d writes to Nodes, want 1", n)
	}

	// It is back, and takes the taint off. It goes again.
	r.ztunnel("node-1", true)
	r.node("node-1")
	r.after(10 * time.Minute)
	r.wantTainted("")
	r.ztunnel("node-1", false)
	r.after(time.Minute + lookEvery)
	r.wantTainted("node-1")
}

func TestAZtunnelThatIsAwayForLessThanAMinuteCostsNothing(t *testing.T) {
	r := newRig(t, 1)
	r.meshed(3)
	for range 5 {
		r.ztunnel("node-1", false)
		r.after(50 * time.Second)
		r.ztunnel("node-1", true)
		r.after(lookEvery)
	}
	r.wantTainted("")
}

func TestDoubtLeadsToNoTaint(t *testing.T) {
	for what, doubt := range map[string]func(r *rig){
		"a new node, whose ztunnel never was ready": func(r *rig) {
			r.node("new")
			r.ztunnel("new", false)
		},
		"a node that was made anew under its name": func(r *rig) {
			o := r.node("node-1")
			o.UID = "another"
			r.server.Set(o)
			r.ztunnel("node-1", false)
		},
		"no pod is there any more: nobody may want one": func(r *rig) { r.server.Delete(r.ztunnel("node-1", false)) },
		"its pod is being deleted": func(r *rig) {
			o, now := r.ztunnel("node-1", false), metav1.Now()
			o.DeletionTimestamp = &now
			r.server.Set(o)
		},
		"its pod has ended, and is no more than an object": func(r *rig) {
			o := r.ztunnel("node-1", false)
			o.Status.Phase = corev1.PodFailed
			r.server.Set(o)
		},
		"a pod of another ServiceAccount": func(r *rig) {
			o := r.ztunnel("node-1", false)
			o.Spec.ServiceAccountName = "other"
			r.server.Set(o)
		},
		"a second pod is ready": func(r *rig) {
			o := r.ztunnel("node-1", true)
			o.Name = "ztunnel-new"
			r.server.Set(o)
			r.ztunnel("node-1", false)
		},
		"the node is not Ready": func(r *rig) {
			o := r.node("node-1")
			o.Status.Conditions[0].Status = corev1.ConditionUnknown
			r.server.Set(o)
			r.ztunnel("node-1", false)
		},
		"the node has the taint with another effect": func(r *rig) {
			r.node("node-1", key)
			r.ztunnel("node-1", false)
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 1)
			r.meshed(6)
			doubt(r)
			r.after(5 * time.Minute)
			r.wantTainted("")
			if n := r.server.Asked("get nodes"); n != 0 {
				t.Errorf("it was due: asked %d times", n)
			}
		})
	}
}

// A version of ztunnel that nowhere gets ready must not stop a cluster's scheduling.
func TestNoMoreThanAThirdOfTheNodesGetTheTaint(t *testing.T) {
	for nodes, want := range map[int]string{1: "node-0", 2: "node-0", 5: "node-0", 6: "node-0 node-1", 8: "node-0 node-1"} {
		r := newRig(t, 1)
		r.meshed(nodes)
		for i := range nodes {
			r.ztunnel(name(i), false)
		}
		r.after(10 * time.Minute)
		r.wantTainted(want)
		if n := strings.Count(r.log.String(), "as many nodes have the taint as may have it"); n != min(1, nodes-1) {
			t.Errorf("%d nodes: said %d times:\n%s", nodes, n, r.log.String())
		}
	}
}

func TestReplicasKeepTheBoundTogether(t *testing.T) {
	r := newRig(t, 3)
	r.meshed(9)
	for i := range 9 {
		r.ztunnel(name(i), false)
	}
	r.after(10 * time.Minute)
	r.wantTainted("node-0 node-1 node-2")
}

// What was put counts before the watch tells it.
func TestATaintThatTheWatchHasNotToldCounts(t *testing.T) {
	r := newRig(t, 1)
	r.meshed(3)
	r.ztunnel("node-0", false)
	r.ztunnel("node-1", false)
	r.after(time.Minute)
	w := r.replicas[0]
	late := w.nodes.store.List()
	r.after(lookEvery)
	r.wantTainted("node-0")
	if has, due := w.review(late, r.now.Add(lookEvery)); has != 1 || len(due) != 1 {
		t.Errorf("%d have it, %v are to get it", has, due)
	}
}

func TestNobodyGetsTheTaintWhileAWatchIsBroken(t *testing.T) {
	for _, resource := range []string{"nodes", "pods"} {
		t.Run(resource, func(t *testing.T) {
			r := newRig(t, 1)
			r.meshed(3)
			r.ztunnel("node-1", false)
			r.after(30 * time.Second)
			r.server.Refuse(resource, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", errors.New("the role went")))
			r.until("the watch is broken", func() bool { return !r.replicas[0].watched() })
			for range 20 {
				r.now = r.now.Add(lookEvery)
				r.replicas[0].look(t.Context(), r.now)
			}
			r.wantTainted("")
			if strings.Contains(r.log.String(), "does not get the taint") {
				t.Errorf("it was tried:\n%s", r.log.String())
			}
			r.server.Refuse(resource, nil)
			r.until("the watch is well", r.replicas[0].watched)
			r.after(time.Minute)
			r.wantTainted("") // it may have been ready while nobody looked
			r.after(lookEvery)
			r.wantTainted("node-1")
			if n := strings.Count(r.log.String(), "no node gets the taint while"); n != 1 {
				t.Errorf("said %d times:\n%s", n, r.log.String())
			}
		})
	}
}

// A watch may be silent, and late.
func TestWhatAWatchToldIsAskedAgainBeforeANodeIsWrittenTo(t *testing.T) {
	for what, now := range map[string]func(r *rig){
		"it is ready":           func(r *rig) { r.ztunnel("node-1", true) },
		"its pod is gone":       func(r *rig) { r.server.Delete(r.ztunnel("node-1", false)) },
		"the node has a taint":  func(r *rig) { r.node("node-1", key) },
		"the node is gone":      func(r *rig) { r.server.Delete(r.node("node-1")) },
		"the node is not Ready": func(r *rig) { o := r.node("node-1"); o.Status.Conditions = nil; r.server.Set(o) },
		"the node is changed while it is asked": func(r *rig) {
			r.beforePatch = func() { r.node("node-1", "theirs") }
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t, 1)
			r.meshed(3)
			r.ztunnel("node-1", false)
			now(r)
			put, err := r.replicas[0].put(t.Context(), "node-1")
			if put || err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("put: %v, %v", put, err)
			}
			r.wantTainted("")
		})
	}
}

func TestANodeThatCannotBeWrittenToHoldsUpNoOther(t *testing.T) {
	r := newRig(t, 1)
	r.meshed(6)
	r.ztunnel("node-1", false)
	r.ztunnel("node-2", false)
	r.after(time.Minute)
	r.server.Refuse("patch nodes", apierrors.NewForbidden(schema.GroupResource{Resource: "nodes"}, "node-1", errors.New("a policy")))
	r.after(lookEvery)
	r.server.Refuse("patch nodes", nil)
	r.after(lookEvery)
	r.wantTainted("node-2")
	if !strings.Contains(r.log.String(), "a policy") {
		t.Errorf("not said:\n%s", r.log.String())
	}
	r.after(2 * time.Minute)
	r.wantTainted("node-1 node-2")
}

func TestOptionsThatLackSomethingAreRefusedByName(t *testing.T) {
	_, err := New(Options{API: &rest.Config{}})
	for _, want := range []string{"Key is required", "After is required", "Accounts is required"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
