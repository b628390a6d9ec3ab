// SPDX-License-Identifier: Apache-2.0

package report

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

func TestTheNodeSaysWhetherItsZtunnelIsReady(t *testing.T) {
	r := newRig(t)
	r.pending = []string{"CA: it has not answered yet"}
	r.after(3 * time.Second) // it starts
	r.tells("node-1")
	r.pending = nil
	r.after(time.Second)
	r.tells("node-1", "Normal MeshReady: ztunnel carries")
	r.pending = []string{"steering: the bpffs is gone", "state directory: it is locked"}
	r.after(20 * time.Second)
	r.tells("node-1", "MeshReady", "Warning MeshNotReady: ztunnel is not ready: steering: the bpffs is gone; state directory: it is locked x1")
	e := r.server.Objects("events")[0].(*corev1.Event)
	if e.Namespace != "default" || e.InvolvedObject.UID != "node-1" || e.Source.Host != "node-1" {
		t.Errorf("%+v", e)
	}
}

// taint sets the taints of the node.
func (r *rig) taint(keys ...string) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	for _, key := range keys {
		node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
	r.server.Set(node)
}

func (r *rig) tainted(want ...string) {
	r.t.Helper()
	taints := r.server.Objects("nodes")[0].(*corev1.Node).Spec.Taints
	if len(taints) != len(want) {
		r.t.Errorf("taints %v, want %v", taints, want)
		return
	}
	for i, taint := range taints {
		if taint.Key != want[i] {
			r.t.Errorf("taints %v, want %v", taints, want)
		}
	}
}

// own makes ztunnel's own pod.
func (r *rig) own(ready bool) {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: "ztunnel-x", UID: "uid-own"}}
	if ready {
		o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	r.server.Set(o)
}

// Ready is a pod whose containers all are: ztunnel, and the plugin's installer.
func TestTheTaintGoesWhenZtunnelsPodIsReadyAndNoOtherTaintDoes(t *testing.T) {
	r := newRig(t)
	r.taint("a", source.NotReadyTaint, "b")
	r.own(false)
	r.pending = nil
	r.after(10 * time.Second)
	r.tainted("a", source.NotReadyTaint, "b")
	r.own(true)
	r.pending = []string{"CA: it has not answered yet"}
	r.after(30 * time.Second)
	r.tainted("a", source.NotReadyTaint, "b")
	r.pending = nil
	r.after(time.Second)
	r.tainted("a", "b")
	r.after(time.Minute)
	if n := r.server.Asked("patch nodes"); n != 1 {
		t.Errorf("%d writes to the node", n)
	}

	r.taint(source.NotReadyTaint, source.NotReadyTaint) // two effects
	r.after(2 * time.Second)
	r.tainted()
}

func TestATaintIsNotTakenFromAPlaceWhereAnotherIsByNow(t *testing.T) {
	r := newRig(t)
	r.taint("a", source.NotReadyTaint)
	r.own(true)
	late := r.shown()
	r.taint("a", "b", source.NotReadyTaint)
	r.Shown = func() kube.Own { return late }
	r.after(time.Second)
	r.tainted("a", "b", source.NotReadyTaint)
	r.Shown = r.shown
	r.after(time.Second)
	r.tainted("a", "b")
}

func TestTheTaintStaysIfNobodyWantsItGone(t *testing.T) {
	r := newRig(t)
	r.Untaint = false
	r.own(true)
	r.taint(source.NotReadyTaint)
	r.after(30 * time.Second)
	r.tainted(source.NotReadyTaint)
	if n := r.server.Asked("patch nodes"); n != 0 {
		t.Errorf("%d writes to the node", n)
	}
}
