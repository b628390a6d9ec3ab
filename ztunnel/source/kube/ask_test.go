// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestAskingDecidesAsASnapshotDoes(t *testing.T) {
	s := startServer(t)
	s.Set(cluster(t)...)
	elsewhere, account, ended := pod(t, "elsewhere", 2), pod(t, "account", 3), pod(t, "vm", 4)
	elsewhere.Spec.NodeName, account.Spec.ServiceAccountName = "node-2", "db"
	class := "secure"
	ended.Spec.RuntimeClassName = &class
	s.Set(elsewhere, account, ended, parse[nodev1.RuntimeClass](t, `{metadata: {name: secure}, handler: kata-qemu}`))
	o := options(s)
	o.PlacementOnly = true
	source, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(node, account string) (out []string) {
		t.Helper()
		found, err := source.Ask(t.Context(), node, "shop", account)
		if err != nil {
			t.Error(err)
		}
		for _, w := range found {
			out = append(out, fmt.Sprint(w.Name, " ", w.Meshed))
		}
		return out
	}
	for _, test := range []struct{ node, account, want string }{
		{"node-1", "web", "[vm false web-1 true]"},
		{"node-1", "db", "[account true]"},
		{"node-2", "web", "[elsewhere true]"},
		{"node-2", "db", "[]"},
	} {
		if got := fmt.Sprint(ask(test.node, test.account)); got != test.want {
			t.Errorf("%s on %s: %s, want %s", test.account, test.node, got, test.want)
		}
	}
	s.Set(parse[corev1.Namespace](t, `{metadata: {name: shop, labels: {culvert.dev/mesh: disabled}}}`))
	if got := fmt.Sprint(ask("node-1", "db")); got != "[account false]" {
		t.Errorf("out of the mesh by its namespace: %s", got)
	}
	s.Refuse("namespaces", apierrors.NewForbidden(corev1.Resource("namespaces"), "shop", errors.New("no rule")))
	if _, err := source.Ask(t.Context(), "node-1", "shop", "db"); err == nil {
		t.Error("what the API server does not tell is taken for a no")
	}
}

// The CA goes on by the names of nodes if it may not get them, and only then.
func TestThatTheCAMayNotGetANodeIsToldFromOtherErrors(t *testing.T) {
	s := startServer(t)
	s.Set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "uid-1"}})
	source, err := New(options(s))
	if err != nil {
		t.Fatal(err)
	}
	if uid, found, err := source.AskNode(t.Context(), "node-1"); uid != "uid-1" || !found || err != nil {
		t.Errorf("%q, %v, %v", uid, found, err)
	}
	for _, is := range []*apierrors.StatusError{
		apierrors.NewForbidden(corev1.Resource("nodes"), "node-1", errors.New("no rule")),
		apierrors.NewInternalError(errors.New("etcd is away")),
	} {
		s.Refuse("nodes", is)
		if _, _, err := source.AskNode(t.Context(), "node-1"); err == nil || apierrors.IsForbidden(err) != apierrors.IsForbidden(is) {
			t.Errorf("%v is returned as %v", is, err)
		}
	}
}

// A node may make mirror pods in any namespace, with any labels and annotations; what
// it cannot is name a ServiceAccount in one.
func TestAMirrorPodPlacesNobody(t *testing.T) {
	s := startServer(t)
	s.Set(cluster(t)...)
	mirror := pod(t, "mirror", 2)
	mirror.Annotations = map[string]string{corev1.MirrorPodAnnotationKey: "claimed"}
	mirror.Labels["culvert.dev/mesh"] = "enabled"
	mirror.Spec.ServiceAccountName = ""
	s.Set(mirror)
	o := options(s)
	o.PlacementOnly = true
	w := start(t, o)
	w.until("only web-1 is placed", meshed("web-1"))
	if found, err := w.source.Ask(t.Context(), "node-1", "shop", "default"); err != nil || len(found) != 0 {
		t.Errorf("asked, the API server places %d pods, %v", len(found), err)
	}
	start(t, options(s)).until("what carries pods carries it", meshed("web-1", "mirror"))

	s.Set(pod(t, "mirror", 2)) // another pod of that name
	w.until("one with a ServiceAccount is placed", meshed("web-1", "mirror"))
	s.Set(mirror)
	w.until("and the next is not", meshed("web-1"))
}
