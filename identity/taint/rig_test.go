// SPDX-License-Identifier: Apache-2.0

package taint

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

const key = "culvert.dev/not-ready"

// rig is an API server, replicas that watch it, and a clock.
type rig struct {
	t        *testing.T
	server   *kubetest.Server
	replicas []*Watch
	now      time.Time
	log      env.Log

	mu          sync.Mutex
	beforePatch func() // once
}

func newRig(t *testing.T, replicas int) *rig {
	t.Helper()
	r := &rig{t: t, server: kubetest.New(), now: time.Now()}
	listener := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if request.Method == http.MethodPatch {
			r.mu.Lock()
			before := r.beforePatch
			r.beforePatch = nil
			r.mu.Unlock()
			if before != nil {
				before()
			}
		}
		r.server.ServeHTTP(w, request)
	}))
	t.Cleanup(listener.Close)
	t.Cleanup(listener.CloseClientConnections)
	for range replicas {
		w, err := New(Options{
			API: &rest.Config{Host: listener.URL, QPS: -1}, Key: key, After: time.Minute,
			Accounts: []identity.ServiceAccount{{Namespace: "culvert-system", Name: "ztunnel"}}, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		w.nodes.start(t.Context())
		w.pods[0].start(t.Context())
		r.replicas = append(r.replicas, w)
		r.until("it watches", w.watched)
	}
	return r
}

// node makes a Node that is Ready and has these taints.
func (r *rig) node(name string, taints ...string) *corev1.Node {
	o := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID("uid-" + name)}}
	o.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	for _, taint := range taints {
		o.Spec.Taints = append(o.Spec.Taints, corev1.Taint{Key: taint, Effect: corev1.TaintEffectPreferNoSchedule})
	}
	r.server.Set(o)
	return o
}

// ztunnel makes the pod of a node's ztunnel.
func (r *rig) ztunnel(node string, ready bool) *corev1.Pod {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "culvert-system", Name: "ztunnel-" + node, UID: types.UID("uid-" + node)}}
	o.Spec.NodeName, o.Spec.ServiceAccountName = node, "ztunnel"
	if ready {
		o.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	}
	r.server.Set(o)
	return o
}

// meshed makes nodes with ready ztunnels, which the replicas have seen.
func (r *rig) meshed(nodes int) {
	for i := range nodes {
		r.node(name(i))
		r.ztunnel(name(i), true)
	}
	r.after(lookEvery)
}

func name(i int) string { return fmt.Sprintf("node-%d", i) }

// after lets time pass. All replicas look at once, when they have heard everything.
func (r *rig) after(d time.Duration) {
	r.t.Helper()
	for ; d >= lookEvery; d -= lookEvery {
		r.now = r.now.Add(lookEvery)
		var all sync.WaitGroup
		for _, w := range r.replicas {
			r.until("all is heard", func() bool { return !w.watched() || r.heard(w) })
			all.Go(func() { w.look(r.t.Context(), r.now) })
		}
		all.Wait()
	}
}

// watched reports whether every watch is well.
func (w *Watch) watched() bool { return w.nodes.sound() && w.pods[0].sound() }

// heard reports whether a replica knows what the server has.
func (r *rig) heard(w *Watch) bool {
	for resource, f := range map[string]*followed{"nodes": w.nodes, "pods": w.pods[0]} {
		objects := r.server.Objects(resource)
		if len(objects) != len(f.store.ListKeys()) {
			return false
		}
		for _, o := range objects {
			known, there, _ := f.store.Get(o)
			if !there || known.(metav1.Object).GetResourceVersion() != o.GetResourceVersion() {
				return false
			}
		}
	}
	return true
}

func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s; log:\n%s", what, r.log.String())
		}
	}
}

// tainted are the names of the nodes that have the taint with our effect.
func (r *rig) tainted() string {
	var out []string
	for _, o := range r.server.Objects("nodes") {
		for _, taint := range o.(*corev1.Node).Spec.Taints {
			if taint.Key == key && taint.Effect == corev1.TaintEffectNoSchedule {
				out = append(out, o.GetName())
			}
		}
	}
	return strings.Join(out, " ")
}

func (r *rig) wantTainted(want string) {
	r.t.Helper()
	if got := r.tainted(); got != want {
		r.t.Errorf("tainted: %q, want %q; log:\n%s", got, want, r.log.String())
	}
}
