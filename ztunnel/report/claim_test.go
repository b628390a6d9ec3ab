// SPDX-License-Identifier: Apache-2.0

package report

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// ownPodSays is what ztunnel's own pod says that it can do.
func (r *rig) ownPodSays() string {
	for _, o := range r.server.Objects("pods") {
		if o.GetName() == "ztunnel-x" {
			return o.GetAnnotations()[source.FeaturesAnnotation]
		}
	}
	return ""
}

// The claim is of this process: what an earlier one said of itself in the same pod would
// be believed of an older version.
func TestOwnPodSaysWhatThisZtunnelDoesWithPolicies(t *testing.T) {
	r := newRig(t)
	r.Conditions = func() []pods.Condition { return nil } // of the others nothing has to be known
	r.own(false)
	r.after(time.Second)
	first, err := policy.ParseClaim(r.ownPodSays())
	if err != nil || !slices.Equal(first.Features, policy.Features) || first.Began.Unix() != r.started.Unix() {
		t.Fatalf("%q: %v", r.ownPodSays(), err)
	}
	r.after(time.Minute)
	if n := r.server.Asked("patch pods/status"); n != 1 {
		t.Errorf("%d writes, want 1", n)
	}

	r.now = r.now.Add(time.Minute)
	r.restart()
	r.after(time.Second)
	if next, err := policy.ParseClaim(r.ownPodSays()); err != nil || !next.Began.After(first.Began) {
		t.Errorf("after a restart it says %q: %v", r.ownPodSays(), err)
	}
}

func TestAClaimOfSomebodyElseIsReplacedAndNotForEver(t *testing.T) {
	r := newRig(t)
	r.own(false)
	r.after(time.Second)
	for range 100 {
		forged := r.server.Objects("pods")[0].DeepCopyObject().(*corev1.Pod)
		forged.Annotations = map[string]string{source.FeaturesAnnotation: "everything 2000-01-01T00:00:00Z"}
		r.server.Set(forged)
		r.after(time.Second)
	}
	if n := r.server.Asked("patch pods/status"); n < 2 || n > 5 {
		t.Errorf("%d writes against somebody who does not give in", n)
	}
}
