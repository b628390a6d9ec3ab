// SPDX-License-Identifier: Apache-2.0

package kubeapi

import (
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

func TestARefusalIsToldInTheServersWords(t *testing.T) {
	k := &clitest.Kubernetes{Denied: map[string]bool{"list pods": true, "create secrets": true}}
	api, err := Open(k.Kubeconfig(t, t.TempDir()), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := api.Pods(t.Context(), "ns", "app=x"); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "the user cannot list pods") {
		t.Errorf("pods: %v", err)
	}
	if _, err := api.ConfigMap(t.Context(), "ns", "x"); !apierrors.IsNotFound(err) {
		t.Errorf("an object that is not there: %v", err)
	}
	for name, want := range map[string]bool{"secrets": false, "services": true} {
		if may, err := api.MayCreate(t.Context(), Resource{Namespace: "ns", Name: name}); may != want || err != nil {
			t.Errorf("create %s: %v, %v", name, may, err)
		}
	}
}
