// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

const dryRunPolicy = `{kind: AuthorizationPolicy, metadata: {name: trial, namespace: shop, annotations: {istio.io/dry-run: "true"}}, spec: {}}`

// ztunnel makes the pod of a node's ztunnel, which started a while ago and says, from its
// start on, that it can do these things; none: it says nothing, as before it could.
func (r *rig) ztunnel(node string, ago time.Duration, can ...string) *corev1.Pod {
	started := time.Now().Add(-ago)
	o := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: "ztunnel-" + node, UID: types.UID("uid-" + node)},
		Spec:       corev1.PodSpec{NodeName: node, ServiceAccountName: "ztunnel"},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "install", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started.Add(ago))}}},
			{Name: "ztunnel", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(started)}}},
		}},
	}
	if len(can) > 0 {
		o.Annotations = map[string]string{source.FeaturesAnnotation: policy.Claim{Features: can, Began: started}.String()}
	}
	r.server.Set(o)
	return o
}

func withNodes(t *testing.T, story func(t *testing.T, r *rig)) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.accounts = []identity.ServiceAccount{{Namespace: "culvert-system", Name: "ztunnel"}}
		r.apply(whole)
		r.apply(dryRunPolicy)
		r.apply(`{kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {}}`)
		story(t, r)
	})
}

const (
	notEvaluated = ": the ztunnel there does not say that it evaluates AuthorizationPolicies, and may refuse everybody whom it selects"
	noDryRuns    = ": the ztunnel there does not say that it knows dry runs, and may refuse everybody whom it selects"
)

func TestAStatusNamesTheNodesThatCannot(t *testing.T) {
	withNodes(t, func(t *testing.T, r *rig) {
		r.ztunnel("new", time.Hour, policy.Features...)
		r.ztunnel("old", time.Hour)
		r.ztunnel("older", time.Hour, policy.FeatureAuthorization)
		r.start()
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True NotOnAllNodes 1: "+saysWhole+"; not on old"+notEvaluated)
		r.want("AuthorizationPolicy", "trial", "False DryRun 1: not enforced: dry run; not on old, older"+noDryRuns)
		r.want("PeerAuthentication", "default", "True Accepted 1: "+saysWhole)

		r.ztunnel("old", 0, policy.Features...)
		r.ztunnel("older", 0, policy.Features...)
		r.after(lookAtNodes + time.Second)
		r.want("AuthorizationPolicy", "web", "True Accepted 1: "+saysWhole)
		r.want("AuthorizationPolicy", "trial", "False DryRun 1: not enforced: dry run")
		if n := len(r.events("web")) + len(r.events("trial")); n != 0 {
			t.Errorf("%d Events of policies that are as they were", n)
		}
		before := r.writes()
		r.after(10 * time.Minute)
		if n := r.writes() - before; n != 0 {
			t.Errorf("%d writes while nothing changes", n)
		}
	})
}

// While ztunnels are replaced one after the other, statuses are not written for each of them.
func TestARolloutDoesNotWriteAllStatusesEveryMinute(t *testing.T) {
	const nodes = 30
	withNodes(t, func(t *testing.T, r *rig) {
		for i := range nodes {
			r.ztunnel(fmt.Sprintf("n%02d", i), time.Hour)
		}
		r.start()
		r.after(lookAtNodes / 2)
		before := r.writes()
		for i := range nodes {
			r.ztunnel(fmt.Sprintf("n%02d", i), 0, policy.Features...)
			r.after(lookAtNodes)
		}
		// In 30 minutes nodes change four times at most, for two policies that name them.
		if n := r.writes() - before; n == 0 || n > 2*4 {
			t.Errorf("%d writes while %d nodes are upgraded, one a minute", n, nodes)
		}
		r.after(restNodes)
		r.want("AuthorizationPolicy", "web", "True Accepted 1: "+saysWhole)
		r.want("AuthorizationPolicy", "trial", "False DryRun 1: not enforced: dry run")
	})
}

// What stands in a pod is believed of the process that wrote it, and of no other.
func TestANodeThatSaysNothingOfItselfCannot(t *testing.T) {
	can := policy.Features
	for _, row := range []struct {
		what   string
		change func(*corev1.Pod)
		ago    time.Duration
		named  bool
	}{
		{what: "it says so", ago: time.Hour},
		{what: "it says nothing", ago: time.Hour, named: true, change: func(o *corev1.Pod) { o.Annotations = nil }},
		{what: "it has just started", ago: time.Second, change: func(o *corev1.Pod) { o.Annotations = nil }},
		{what: "its clock is ahead", ago: -time.Hour, named: true, change: func(o *corev1.Pod) { o.Annotations = nil }},
		{what: "what it says means nothing", ago: time.Hour, named: true, change: func(o *corev1.Pod) { o.Annotations[source.FeaturesAnnotation] = "all" }},
		{what: "the one before it said so", ago: time.Hour, named: true, change: func(o *corev1.Pod) {
			o.Annotations[source.FeaturesAnnotation] = policy.Claim{Features: can, Began: time.Now().Add(-2 * time.Hour)}.String()
		}},
		{what: "it does not run", ago: time.Hour, change: func(o *corev1.Pod) { o.Annotations, o.Status.ContainerStatuses = nil, nil }},
		{what: "it is being deleted", ago: time.Hour, change: func(o *corev1.Pod) { o.Annotations, o.DeletionTimestamp = nil, new(metav1.Now()) }},
		{what: "it is another pod", ago: time.Hour, change: func(o *corev1.Pod) { o.Annotations, o.Spec.ServiceAccountName = nil, "default" }},
		{what: "it is one of another namespace", ago: time.Hour, change: func(o *corev1.Pod) { o.Annotations, o.Namespace = nil, "shop" }},
		{what: "its container has another name", ago: time.Hour, named: true, change: func(o *corev1.Pod) {
			o.Annotations, o.Status.ContainerStatuses = nil, o.Status.ContainerStatuses[1:]
			o.Status.ContainerStatuses[0].Name = "agent"
		}},
	} {
		withNodes(t, func(t *testing.T, r *rig) {
			o := r.ztunnel("n", row.ago, can...)
			if row.change != nil {
				r.server.Delete(o)
				row.change(o)
				r.server.Set(o)
			}
			r.start()
			r.after(time.Second)
			want := "True Accepted 1: " + saysWhole
			if row.named {
				want = "True NotOnAllNodes 1: " + saysWhole + "; not on n" + notEvaluated
			}
			if got := r.says("AuthorizationPolicy", "shop", "web"); got != want {
				t.Errorf("%s: %s", row.what, got)
			}
		})
	}
}

func TestOfManyNodesAFewAreNamed(t *testing.T) {
	withNodes(t, func(t *testing.T, r *rig) {
		for i := range 1200 { // more than a page
			r.ztunnel(fmt.Sprintf("n%04d", i), time.Hour)
		}
		r.start()
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True NotOnAllNodes 1: "+saysWhole+"; not on n0000, n0001, n0002, n0003, n0004 and 1195 more"+notEvaluated)
	})
}

// Else a node would be taken off each status for as long as the API server does not tell.
func TestALeaderThatDoesNotKnowTheNodesWritesNothing(t *testing.T) {
	withNodes(t, func(t *testing.T, r *rig) {
		r.ztunnel("old", time.Hour)
		first := r.start()
		r.after(time.Second)
		first.stop()
		r.server.Refuse("pods", apierrors.NewInternalError(fmt.Errorf("etcd is away")))
		second := r.start()
		r.after(10 * time.Minute)
		r.want("AuthorizationPolicy", "web", "True NotOnAllNodes 1: "+saysWhole+"; not on old"+notEvaluated)
		if n := second.log.Count("which nodes a policy's status has to name is not known"); n != 1 {
			t.Errorf("said %d times:\n%s", n, second.log.String())
		}
		r.server.Refuse("pods", nil)
		r.ztunnel("old", 0, policy.Features...)
		r.after(2 * time.Minute)
		r.want("AuthorizationPolicy", "web", "True Accepted 1: "+saysWhole)
	})
}
