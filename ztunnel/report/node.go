// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// settleNode is how long a ztunnel may be unready before its Node tells.
const settleNode = 10 * time.Second

var (
	nodeEvents   = rate.Limit{PerSecond: 1.0 / 60, Burst: 10}
	nodeUntaints = rate.Limit{PerSecond: 1.0 / 10, Burst: 3}
)

// node is what was told of the Node.
type node struct {
	told     bool   // anything
	waits    string // for what, as it was told; "": it is ready
	unready  time.Time
	events   rate.Left
	untaints rate.Left
}

// lookAtNode tells whether the node is ready, and takes its taint off if it is.
func (r *Reporter) lookAtNode(ctx context.Context, now time.Time, shown kube.Own) {
	n := &r.node
	waits := strings.Join(r.Pending(), "; ")
	if waits == "" {
		n.unready = time.Time{}
		if r.Untaint && r.ownReady(shown) {
			r.untaint(ctx, now, shown.Taints)
		}
	} else if n.unready.IsZero() {
		n.unready = now
	}
	if n.told && waits == n.waits || waits != "" && now.Sub(n.unready) < settleNode {
		return
	}
	n.told, n.waits = true, waits
	if !n.events.Spend(nodeEvents) {
		r.writer.count(eventDropped)
		return
	}
	c := change{false, "MeshReady", "ztunnel carries the connections of this node's pods"}
	if waits != "" {
		c = change{true, "MeshNotReady", "ztunnel is not ready: " + waits}
	}
	r.writer.event(ctx, now, event{change: c, object: nodeReference(r.Node)})
}

// ownReady reports whether ztunnel's own pod is Ready. Without the plugin in place, pods
// would start before they are enrolled.
func (r *Reporter) ownReady(shown kube.Own) bool {
	return slices.ContainsFunc(shown.Pods, func(p kube.OwnPod) bool { return p.Ready && p.Namespace+"/"+p.Name == r.OwnPod })
}

// untaint takes the first taint of ours off the Node; the watch tells of others.
func (r *Reporter) untaint(ctx context.Context, now time.Time, taints []corev1.Taint) {
	i := slices.IndexFunc(taints, func(t corev1.Taint) bool { return t.Key == source.NotReadyTaint })
	if i >= 0 && r.node.untaints.Spend(nodeUntaints) && r.writer.untaint(ctx, now, i, taints[i]) {
		r.Log.Info("the node's taint is taken off", logTaint, source.NotReadyTaint)
	}
}
