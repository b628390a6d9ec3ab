// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"context"
	"fmt"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"

	"github.com/culvert-mesh/culvert/identity/lease"
)

// holder is who the Lease says that leads.
func (r *rig) holder() string {
	for _, o := range r.server.Objects(leaseResource) {
		name, _, _ := unstructured.NestedString(o.(*unstructured.Unstructured).Object, "spec", "holderIdentity")
		return name
	}
	return ""
}

// leader returns the replica that leads, and the others.
func (r *rig) leader(replicas ...*replica) (leads *replica, others []*replica) {
	r.t.Helper()
	for _, p := range replicas {
		if p.lease.Self == r.holder() {
			leads = p
		} else {
			others = append(others, p)
		}
	}
	if leads == nil {
		r.t.Fatalf("%q leads", r.holder())
	}
	return leads, others
}

func TestOneReplicaWritesAndTheOthersWatchNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.start()
		r.start()
		r.after(time.Minute)
		r.apply(layer7)
		r.after(time.Minute)
		if n := r.writes(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		if n := r.server.Asked("list " + authorizationPolicies); n != 1 {
			t.Errorf("policies were listed %d times, want once", n)
		}
	})
}

// kill -9: it says nobody that it is gone.
func TestWhenTheLeaderIsKilledAnotherLeadsIn17Seconds(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.start(), r.start()
		r.after(time.Minute)
		leads, others := r.leader(a, b)
		leads.kill()
		r.apply(layer7)
		r.after(lease.Lasts - lease.RenewEvery)
		if r.says("AuthorizationPolicy", "shop", "web") != "" || r.holder() != leads.lease.Self {
			t.Error("another leads while the killed one may think that it does")
		}
		r.after(2*lease.RenewEvery + time.Second)
		if r.holder() != others[0].lease.Self {
			t.Errorf("%q leads", r.holder())
		}
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
	})
}

func TestALeaderThatEndsLetsAnotherLeadAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		a, b := r.start(), r.start()
		r.after(time.Minute)
		leads, others := r.leader(a, b)
		leads.stop()
		r.after(2 * lease.RenewEvery)
		if r.holder() != others[0].lease.Self {
			t.Errorf("%q leads", r.holder())
		}
	})
}

// A leader that cannot renew stops before another may begin.
func TestALeaderThatCannotRenewStopsWritingBeforeAnotherLeads(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		p := r.start()
		r.after(time.Minute)
		r.server.Refuse("update "+leaseResource, apierrors.NewInternalError(fmt.Errorf("etcd is away")))
		r.after(lease.LeadsFor - lease.RenewEvery - time.Second)
		r.apply(layer7)
		r.after(time.Second)
		if n := r.writes(); n != 1 {
			t.Errorf("%d writes of one that still leads", n)
		}
		r.after(lease.RenewEvery)
		r.apply(whole)
		r.after(10 * time.Minute)
		if n := r.writes(); n != 1 || p.log.Count("does not write any more") != 1 {
			t.Errorf("%d writes; the log:\n%s", n, p.log.String())
		}
		if n := p.log.Count("etcd is away"); n != 1 {
			t.Errorf("said %d times in 10 minutes", n)
		}
		r.server.Refuse("update "+leaseResource, nil)
		r.after(time.Minute)
		r.want("AuthorizationPolicy", "web", "True Accepted 2: "+saysWhole)
	})
}

// So does one whose renewal hangs.
func TestALeaderStopsThoughItsRenewalHasNoAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		l := r.start().lease
		r.after(time.Second)
		began, ended := time.Now(), make(chan time.Duration, 1)
		l = &lease.Lease{Client: hangs{l.Client}, Namespace: l.Namespace, Name: l.Name, Self: "x"}
		l.Lead(t.Context(), began, func(ctx context.Context) {
			<-ctx.Done()
			ended <- time.Since(began)
		})
		if d := <-ended; d != lease.LeadsFor {
			t.Errorf("it led for %v, want %v", d, lease.LeadsFor)
		}
	})
}

// hangs is an API server that takes requests, and answers none.
type hangs struct{ dynamic.ResourceInterface }

func (hangs) Get(ctx context.Context, _ string, _ metav1.GetOptions, _ ...string) (*unstructured.Unstructured, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// Somebody takes the Lease away, by hand.
func TestALeaderStopsWhenAnotherHoldsTheLease(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.after(time.Minute)
		o := r.server.Objects(leaseResource)[0].DeepCopyObject().(*unstructured.Unstructured)
		_ = unstructured.SetNestedField(o.Object, "somebody", "spec", "holderIdentity")
		r.server.Set(o)
		r.after(lease.RenewEvery)
		r.apply(layer7)
		r.after(lease.RenewEvery)
		if n := r.writes(); n != 0 || r.holder() != "somebody" {
			t.Errorf("%d writes, and %q leads", n, r.holder())
		}
		r.after(lease.Lasts) // nobody renews it
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
	})
}

// What is in the Lease is anybody's.
func TestALeaseOfAnyContentIsTaken(t *testing.T) {
	for _, spec := range []string{`{}`, `null`, `{holderIdentity: 5, leaseTransitions: many}`, `{holderIdentity: gone, leaseDurationSeconds: 2000000000, renewTime: "2126-01-02T03:04:05.000000Z"}`} {
		inBubble(t, func(t *testing.T, r *rig) {
			o := r.object(`{kind: Lease, metadata: {name: policies, namespace: culvert-system}, spec: ` + spec + `}`)
			o.SetAPIVersion("coordination.k8s.io/v1")
			r.server.Set(o)
			r.apply(layer7)
			p := r.start()
			r.after(lease.Lasts + 2*lease.RenewEvery)
			if r.holder() != p.lease.Self || r.writes() != 1 {
				t.Errorf("%s: %q leads; the log:\n%s", spec, r.holder(), p.log.String())
			}
		})
	}
}
