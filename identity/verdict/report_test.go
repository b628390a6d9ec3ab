// SPDX-License-Identifier: Apache-2.0

package verdict

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

const (
	layer7 = `{kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {rules: [{to: [{operation: {methods: [GET], ports: ["80"]}}]}]}}`
	whole  = `{kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {rules: [{to: [{operation: {ports: ["80"]}}]}]}}`

	saysLayer7 = "in force, narrower than it is written: spec.rules[0].to[0].operation.methods: is about requests, which nobody looks at here"
	saysWhole  = "every field is understood"
)

func TestAPolicyShowsWhatOfItIsNotUnderstood(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.apply(layer7)
		r.apply(`{kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: strict}}}`)
		r.start()
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
		r.want("PeerAuthentication", "default", `False Invalid 1: not understood, so that it keeps its former meaning, or if it has none means STRICT for all that it may select: `+
			`spec.mtls.mode: "strict": not UNSET, DISABLE, PERMISSIVE or STRICT`)
		r.apply(whole)
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True Accepted 2: "+saysWhole)
	})
}

func TestAnEventIsMadeOncePerGeneration(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.apply(layer7)
		first := r.start()
		r.after(time.Second)
		events := r.events("web")
		if len(events) != 1 || events[0].Type != corev1.EventTypeWarning || events[0].Reason != reasonUnsupported || events[0].Message != saysLayer7 ||
			events[0].Namespace != "shop" || events[0].InvolvedObject.Kind != "AuthorizationPolicy" || events[0].InvolvedObject.UID != "u-1" {
			t.Fatalf("Events: %+v", events)
		}

		// Another replica, which finds the status gone, says nothing anew.
		first.stop()
		o := r.find("AuthorizationPolicy", "shop", "web")
		delete(o.Object, "status")
		r.server.Set(o)
		r.start()
		r.after(time.Minute)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
		if n := len(r.events("web")); n != 1 {
			t.Errorf("%d Events of one generation", n)
		}
		r.apply(layer7)
		r.after(time.Second)
		if n := len(r.events("web")); n != 2 {
			t.Errorf("%d Events of two generations", n)
		}
		r.apply(whole)
		r.after(time.Second)
		if n := len(r.events("web")); n != 2 {
			t.Errorf("%d Events, of which one is of an object that is understood", n)
		}
	})
}

func TestWithoutChangesNothingIsWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.apply(layer7)
		first := r.start()
		r.after(10 * time.Minute)
		if n := r.writes(); n != 1 {
			t.Errorf("%d writes in 10 minutes, want 1", n)
		}
		first.stop()
		r.start()
		o := r.find("AuthorizationPolicy", "shop", "web")
		o.SetLabels(map[string]string{"a": "b"})
		r.server.Set(o)
		r.after(10 * time.Minute)
		if n := r.writes(); n != 1 {
			t.Errorf("%d writes with a second replica and a label, want 1", n)
		}
	})
}

// How long an object has been so is when that began, and not when its text changed last.
func TestTheTransitionIsThatOfTheStatus(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		since := func() string {
			list, i, _ := conditions(r.find("AuthorizationPolicy", "shop", "web"))
			return list[i].(map[string]any)["lastTransitionTime"].(string)
		}
		r.apply(layer7)
		r.start()
		r.after(time.Minute)
		began := since()
		r.apply(whole)
		r.after(time.Minute)
		if got := since(); got != began {
			t.Errorf("True since %s, and then since %s", began, got)
		}
		r.apply(`{kind: AuthorizationPolicy, metadata: {name: web, namespace: shop}, spec: {action: AUDIT}}`)
		r.after(time.Minute)
		if got := since(); got == began {
			t.Errorf("False since %s, when it was True", got)
		}
	})
}

func TestConditionsOfOthersStay(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		o := r.apply(layer7)
		theirs := map[string]any{"type": "Synced", "status": "True", "anything": map[string]any{"of": "theirs"}}
		o.Object["status"] = map[string]any{"conditions": []any{theirs}, "validationMessages": []any{"theirs"}}
		r.server.Set(o)
		// Another one of theirs comes between the look and the write.
		r.onPatch(func() {
			list, _, _ := conditions(r.find("AuthorizationPolicy", "shop", "web"))
			o.Object["status"].(map[string]any)["conditions"] = append(list, map[string]any{"type": "Healthy", "status": "False"})
			r.server.Set(o)
		})
		p := r.start()
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
		status := r.find("AuthorizationPolicy", "shop", "web").Object["status"]
		want := `map[conditions:[map[anything:map[of:theirs] status:True type:Synced] map[status:False type:Healthy] `
		if got := fmt.Sprint(status); len(got) < len(want) || got[:len(want)] != want {
			t.Errorf("status\n  %s\nwant\n  %s…", got, want)
		}
		if r.beforePatch.Load() != nil || r.writes() != 2 || p.log.Count("WARN") > 0 {
			t.Errorf("%d writes, want one that comes too late and one that does not; the log:\n%s", r.writes(), p.log.String())
		}
	})
}

// istiod is one, with a condition of the same type on the same objects.
func TestWhereIstiodRunsTheConditionIsIts(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		istiod := func() {
			o := r.find("AuthorizationPolicy", "shop", "web")
			o.Object["status"] = map[string]any{"conditions": []any{map[string]any{
				"type": conditionType, "status": "True", "reason": "Accepted", "message": "attached to ztunnel", "observedGeneration": fmt.Sprint(o.GetGeneration()),
			}}}
			o.SetManagedFields([]metav1.ManagedFieldsEntry{{
				Manager: "istio-ambient-policy", Operation: metav1.ManagedFieldsOperationApply, Subresource: "status",
				FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:conditions":{}}}`),
			}})
			r.server.Set(o)
		}
		r.apply(layer7)
		istiod()
		r.start()
		r.after(10 * time.Minute)
		r.want("AuthorizationPolicy", "web", "True Accepted 1: attached to ztunnel")
		if n := r.writes() + len(r.events("web")); n != 0 {
			t.Errorf("%d writes and Events", n)
		}

		// It says nothing of the next generation, in time or at all; and then it does.
		r.apply(layer7)
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 2: "+saysLayer7)
		istiod()
		r.after(10 * time.Minute)
		r.want("AuthorizationPolicy", "web", "True Accepted 2: attached to ztunnel")
		if n := r.writes(); n != 1 {
			t.Errorf("%d writes, want 1 of a generation of which istiod said nothing", n)
		}
	})
}

func TestWhoWroteAConditionLast(t *testing.T) {
	for _, test := range []struct {
		what, manager, fields string
		istiod                bool
	}{
		{"istiod, where the list is one field", "istio-ambient-policy", `{"f:status":{"f:conditions":{}}}`, true},
		{"istiod, where each type is one", "istio-ambient-policy", `{"f:status":{"f:conditions":{"k:{\"type\":\"ZtunnelAccepted\"}":{}}}}`, true},
		{"istiod, another type", "istio-ambient-policy", `{"f:status":{"f:conditions":{"k:{\"type\":\"WaypointAccepted\"}":{}}}}`, false},
		{"an old istiod", "pilot-discovery", `{"f:status":{".":{},"f:conditions":{}}}`, true},
		{"istiod, which wrote something else", "istio-ambient-policy", `{"f:status":{"f:validationMessages":{}}}`, false},
		{"us", component, `{"f:status":{"f:conditions":{}}}`, false},
		{"somebody", "argocd", `{"f:status":{"f:conditions":{}}}`, false},
	} {
		inBubble(t, func(t *testing.T, r *rig) {
			o := r.apply(layer7)
			o.SetManagedFields([]metav1.ManagedFieldsEntry{{Manager: test.manager, FieldsV1: metav1.NewFieldsV1(test.fields)}, {Manager: "empty"}})
			if got := writtenByIstiod(o); got != test.istiod {
				t.Errorf("%s: %v", test.what, got)
			}
		})
	}
}

func TestAPolicyThatGoesMeanwhileIsNoError(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		o := r.apply(whole)
		r.onPatch(func() { r.server.Delete(o) })
		p := r.start()
		r.after(10 * time.Minute)
		if n := r.writes(); n != 1 || p.log.Count("WARN") > 0 {
			t.Errorf("%d writes; the log:\n%s", n, p.log.String())
		}
	})
}

func TestAPolicyThatCannotBeWrittenHoldsUpNoOther(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.apply(`{kind: AuthorizationPolicy, metadata: {name: odd, namespace: shop}, spec: {}, status: {conditions: none}}`)
		r.server.Refuse("patch "+peerAuthentications+"/status", apierrors.NewForbidden(schema.GroupResource{Resource: "peerauthentications"}, "", fmt.Errorf("the role went")))
		r.apply(`{kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {}}`)
		p := r.start()
		r.after(time.Second)
		r.apply(whole)
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True Accepted 1: "+saysWhole)
		r.after(10 * time.Minute)
		if n := p.log.Count("the status of a policy is refused"); n < 5 || n > 12 {
			t.Errorf("said %d times in 10 minutes:\n%s", n, p.log.String())
		}
		if n := r.writes(); n > 15 {
			t.Errorf("%d writes in 10 minutes", n)
		}
		r.server.Refuse("patch "+peerAuthentications+"/status", nil)
		r.after(2 * time.Minute)
		r.want("PeerAuthentication", "default", "True Accepted 1: "+saysWhole)
	})
}

// A namespace that ends takes no new Events.
func TestAnEventThatIsRefusedKeepsNoStatusBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.server.Refuse("create events", apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "", fmt.Errorf("the namespace is being terminated")))
		r.apply(layer7)
		r.start()
		r.after(time.Second)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 1: "+saysLayer7)
	})
}

func TestAnAPIServerThatIsAwayIsNotFlooded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.start()
		r.after(time.Second)
		r.server.Refuse("patch "+authorizationPolicies+"/status", apierrors.NewInternalError(fmt.Errorf("etcd is away")))
		for i := range 50 {
			r.apply(fmt.Sprintf(`{kind: AuthorizationPolicy, metadata: {name: p%d, namespace: shop}, spec: {}}`, i))
		}
		r.after(10 * time.Minute)
		if n := r.writes(); n > 20 {
			t.Errorf("%d writes in 10 minutes", n)
		}
		r.server.Refuse("patch "+authorizationPolicies+"/status", nil)
		r.after(2 * time.Minute)
		for i := range 50 {
			r.want("AuthorizationPolicy", fmt.Sprintf("p%d", i), "True Accepted 1: "+saysWhole)
		}
	})
}

func TestKindsMayComeLater(t *testing.T) {
	for _, version := range []string{"v1", "v1beta1"} {
		inBubble(t, func(t *testing.T, r *rig) {
			r.server.Drop(authorizationPolicies)
			p := r.start()
			r.after(time.Minute)
			r.server.Offer("security.istio.io/" + version + "/authorizationpolicies")
			o := r.object(whole)
			o.SetAPIVersion("security.istio.io/" + version)
			r.server.Set(o)
			r.after(time.Minute)
			if got := r.server.Asked("patch security.istio.io/" + version + "/authorizationpolicies/status"); got != 1 {
				t.Errorf("%s: %d writes; the log:\n%s", version, got, p.log.String())
			}
		})
	}
}

// An etcd that is restored from a backup: what was seen of it is newer than what it has.
func TestAnAPIServerThatWentBackInTimeIsListedAnew(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.apply(whole)
		r.start()
		r.after(time.Minute)
		before := r.object(layer7)
		before.SetAPIVersion("security.istio.io/v1")
		before.SetGeneration(7)
		lease := r.server.Objects(leaseResource)[0]
		r.server.Restore(10, before, lease)
		r.after(time.Minute)
		r.want("AuthorizationPolicy", "web", "True UnsupportedValue 7: "+saysLayer7)
	})
}
