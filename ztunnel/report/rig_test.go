// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-mesh/culvert/rate"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube/kubetest"
)

// rig is a Reporter, the API server that it writes to, and a clock. What the API server
// shows is looked up there: the watch is never late.
type rig struct {
	*Reporter
	t          *testing.T
	server     *kubetest.Server
	http       *http.Server
	address    string
	now        time.Time
	conditions map[string]pods.Condition
	pending    []string
	wrong      string // with all objects
	log        strings.Builder
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, server: kubetest.New(), now: time.Now(), conditions: map[string]pods.Condition{}, address: env.Address(t)}
	r.listen()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(path, kubetest.Kubeconfig(r.address), 0o600); err != nil {
		t.Fatal(err)
	}
	reporter, err := New(Config{Kubeconfig: path, Node: "node-1", Shown: r.shown, OwnPod: "culvert-system/ztunnel-x", Untaint: true, Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		Pending: func() []string { return r.pending },
		Conditions: func() []pods.Condition {
			out := []pods.Condition{}
			for _, c := range r.conditions {
				out = append(out, c)
			}
			return out
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Reporter = reporter
	r.restart()
	t.Cleanup(func() { r.http.Close() })
	return r
}

// restart begins anew, as another ztunnel.
func (r *rig) restart() {
	w := r.writer
	r.writer = &writer{client: w.client, node: w.node, log: w.log, alike: map[string]int32{}, refused: map[string]time.Time{}}
	r.pods, r.node, r.started, r.claimed, r.claims = map[string]*pod{}, node{}, r.now, time.Time{}, rate.Left{}
}

func (r *rig) listen() {
	ln, err := net.Listen("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	r.http = &http.Server{Handler: r.server}
	go r.http.Serve(ln)
}

func (r *rig) shown() (own kube.Own) {
	for _, o := range r.server.Objects("pods") {
		own.Pods = append(own.Pods, kube.OwnPod{Namespace: o.GetNamespace(), Name: o.GetName(), ObjectUID: string(o.GetUID()), UID: string(o.GetUID()),
			Wrong: r.wrong, Created: o.GetCreationTimestamp().Time, Status: o.GetAnnotations()["culvert.dev/status"], Features: o.GetAnnotations()["culvert.dev/policy-features"],
			Deleting: o.GetDeletionTimestamp() != nil, Ended: o.(*corev1.Pod).Status.Phase == corev1.PodSucceeded,
			Ready: len(o.(*corev1.Pod).Status.Conditions) > 0})
	}
	for _, o := range r.server.Objects("nodes") {
		own.Taints = o.(*corev1.Node).Spec.Taints
	}
	return own
}

// pod makes an object that came now, with an annotation or none.
func (r *rig) pod(name, status string) {
	o := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + name),
		CreationTimestamp: metav1.NewTime(r.now), Annotations: map[string]string{"theirs": "stays"}}}
	if status != "" {
		o.Annotations["culvert.dev/status"] = status
	}
	r.server.Set(o)
}

// is changes what is so.
func (r *rig) is(name, status, why string) {
	r.conditions[name] = pods.Condition{UID: "uid-" + name, Namespace: "shop", Name: name, Status: status, Why: why,
		Identity: "spiffe://cluster.local/ns/shop/sa/" + name}
}

// after lets time pass, a second after the other.
func (r *rig) after(d time.Duration) {
	for ; d >= time.Second; d -= time.Second {
		r.now = r.now.Add(time.Second)
		r.look(r.t.Context(), r.now)
	}
}

// shows asserts the annotation of a pod.
func (r *rig) shows(name, want string) {
	r.t.Helper()
	for _, o := range r.server.Objects("pods") {
		if o.GetName() != name {
			continue
		}
		got, there := o.GetAnnotations()["culvert.dev/status"]
		if got != want || there != (want != "") {
			r.t.Errorf("the status of %s is %q (there: %v), want %q", name, got, there, want)
		}
		if o.GetAnnotations()["theirs"] != "stays" {
			r.t.Errorf("the other annotation of %s has gone", name)
		}
	}
}

// events are those on an object, as "TYPE REASON: MESSAGE xCOUNT" in no order.
func (r *rig) events(name string) (all []string) {
	for _, o := range r.server.Objects("events") {
		if e := o.(*corev1.Event); e.InvolvedObject.Name == name {
			all = append(all, fmt.Sprintf("%s %s: %s x%d", e.Type, e.Reason, e.Message, e.Count))
		}
	}
	return all
}

// tells asserts that exactly these Events are on an object, each by a part of it.
func (r *rig) tells(name string, parts ...string) {
	r.t.Helper()
	all := r.events(name)
	if len(all) != len(parts) {
		r.t.Errorf("%d Events on %s, want %d:\n%s", len(all), name, len(parts), strings.Join(all, "\n"))
		return
	}
	for _, part := range parts {
		if !strings.Contains(strings.Join(all, "\n"), part) {
			r.t.Errorf("no Event on %s has %q:\n%s", name, part, strings.Join(all, "\n"))
		}
	}
}
