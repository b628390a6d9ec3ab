// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"slices"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

// claim has ztunnel's own pod say what this ztunnel does with policies: the CA names the
// nodes that do not say so in the status of each policy. It replaces what an earlier
// ztunnel in that pod said.
func (r *Reporter) claim(ctx context.Context, now time.Time, pods []kube.OwnPod) {
	i := slices.IndexFunc(pods, func(p kube.OwnPod) bool { return p.Namespace+"/"+p.Name == r.OwnPod && !p.Deleting })
	text := policy.Claim{Features: policy.Features, Began: r.started}.String()
	if i < 0 || pods[i].Features == text || now.Sub(r.claimed) < shownAgain || !r.writer.may(now) || !r.claims.Spend(podStatuses) {
		return
	}
	if r.writer.annotate(ctx, now, pods[i], source.FeaturesAnnotation, text) {
		r.claimed = now
	}
}
