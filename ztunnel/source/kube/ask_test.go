// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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
