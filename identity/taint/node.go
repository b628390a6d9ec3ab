// SPDX-License-Identifier: Apache-2.0

package taint

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// state is what is known of a node's ztunnel.
//
//	unknown ── ready ──> present ── a pod, and not ready ──> away
//	                        ^── ready, or no pod at all ──────┘
type state int

const (
	unknown state = iota // nobody saw it ready: it may never have been
	present              // it is ready, or no pod is there to be
	away                 // its pod is there and is not ready
)

// node is what is known of one Node.
type node struct {
	uid   types.UID
	state state
	since time.Time // it has been away
	put   time.Time // when this process put the taint; zero: never
}

// ztunnel is how the pods of ztunnel on a node are.
type ztunnel struct {
	there bool // one that nobody deleted
	ready bool
}

// see takes it how the node's ztunnel is now.
func (n *node) see(z ztunnel, now time.Time) {
	switch {
	case z.ready:
		n.state = present
	case n.state == present && z.there:
		n.state, n.since = away, now
	case n.state == away && !z.there:
		n.state = present
	}
}

// add counts a pod in.
func (z ztunnel) add(pod *corev1.Pod) ztunnel {
	ended := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	return ztunnel{there: z.there || pod.DeletionTimestamp == nil && !ended, ready: z.ready || ready}
}

// able reports whether pods could be placed on the node but for our taint.
func able(o *corev1.Node) bool {
	return o.DeletionTimestamp == nil && slices.ContainsFunc(o.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// tainted reports whether the node has the taint, with whatever effect.
func (w *Watch) tainted(o *corev1.Node) bool {
	return slices.ContainsFunc(o.Spec.Taints, func(t corev1.Taint) bool { return t.Key == w.Key })
}
