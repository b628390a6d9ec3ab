// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

const (
	// lookAtNodes is how often ztunnels are asked about.
	lookAtNodes = time.Minute
	// restNodes is how long they are not after a change, for which all statuses are written:
	// while ztunnels are being replaced there is one every minute.
	restNodes = 10 * time.Minute
	// claimWithin is how long a ztunnel that has just started may take to say what it can.
	claimWithin = time.Minute
	// namedNodes is how many nodes one message names.
	namedNodes = 5
	// maxNodesText bounds what one message says of nodes, in bytes.
	maxNodesText = 400
	// ztunnelContainer is the container of a ztunnel's pod in which ztunnel runs.
	ztunnelContainer = "ztunnel"
)

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// laggards are, by feature of policy.Claim, the nodes on which it is not known, sorted.
type laggards map[string][]string

func (l laggards) equal(o laggards) bool { return maps.EqualFunc(l, o, slices.Equal[[]string]) }

// findLaggards asks the API server what the ztunnels that run say of themselves, in the
// annotation source.FeaturesAnnotation. Each is proved to be of its node by whoever let it
// write that: one that says nothing can do nothing.
func (r *Reporter) findLaggards(ctx context.Context) (laggards, error) {
	lacking := map[string]map[string]bool{policy.FeatureAuthorization: {}, policy.FeatureDryRun: {}}
	for _, account := range r.Accounts {
		err := r.eachPod(ctx, account, func(pod *corev1.Pod) {
			claim, counts := claimOf(pod, time.Now())
			for feature, nodes := range lacking {
				if counts && !claim.Has(feature) {
					nodes[pod.Spec.NodeName] = true
				}
			}
		})
		if err != nil {
			return nil, fmt.Errorf("pods of %v: %w", account, err)
		}
	}
	l := laggards{}
	for feature, nodes := range lacking {
		l[feature] = slices.Sorted(maps.Keys(nodes))
	}
	return l, nil
}

// eachPod reads the pods of a ServiceAccount, page by page.
func (r *Reporter) eachPod(ctx context.Context, account identity.ServiceAccount, take func(*corev1.Pod)) error {
	page := metav1.ListOptions{Limit: pageSize, FieldSelector: fields.OneTermEqualSelector("spec.serviceAccountName", account.Name).String()}
	for {
		timed, stop := context.WithTimeout(ctx, answerWithin)
		list, err := r.client.Resource(pods).Namespace(account.Namespace).List(timed, page)
		stop()
		if err != nil {
			return err
		}
		for i := range list.Items {
			var pod corev1.Pod
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(list.Items[i].Object, &pod); err != nil {
				return err
			}
			if pod.Namespace == account.Namespace && pod.Spec.ServiceAccountName == account.Name {
				take(&pod)
			}
		}
		if page.Continue = list.GetContinue(); page.Continue == "" {
			return nil
		}
	}
}

// claimOf returns what the ztunnel that runs in a pod says of itself; false: none runs, or
// it has just started. What was written before it started is another one's word: both
// times are of the node's clock. An empty Claim has nothing.
func claimOf(pod *corev1.Pod, now time.Time) (claim policy.Claim, counts bool) {
	started, runs := startOf(pod)
	if !runs || pod.DeletionTimestamp != nil || pod.Spec.NodeName == "" {
		return claim, false
	}
	claim, err := policy.ParseClaim(pod.Annotations[source.FeaturesAnnotation])
	if err == nil && !claim.Began.Before(started.Truncate(time.Second)) {
		return claim, true
	}
	age := now.Sub(started)
	return policy.Claim{}, age < 0 || age >= claimWithin
}

// startOf is when the pod's ztunnel started. In a pod without ztunnelContainer it is the
// container that started last.
func startOf(pod *corev1.Pod) (started time.Time, runs bool) {
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running == nil {
			continue
		}
		if c.Name == ztunnelContainer {
			return c.State.Running.StartedAt.Time, true
		}
		if at := c.State.Running.StartedAt.Time; !runs || at.After(started) {
			started, runs = at, true
		}
	}
	return started, runs
}

// notOn says on which nodes an AuthorizationPolicy does not mean what v says.
func (v verdict) notOn(l laggards) verdict {
	nodes := l[v.needs]
	if len(nodes) == 0 {
		return v
	}
	names := strings.Join(nodes[:min(len(nodes), namedNodes)], ", ")
	if more := len(nodes) - namedNodes; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	what := "it evaluates AuthorizationPolicies"
	if v.needs == policy.FeatureDryRun {
		what = "it knows dry runs"
	}
	v.nodes = "; " + short("not on "+names+": the ztunnel there does not say that "+what+", and may refuse everybody whom it selects", maxNodesText)
	if v.reason == reasonAccepted {
		v.reason = reasonNotOnAllNodes
	}
	return v
}
