// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/clitest"
)

// Before an installation, what would be in its way is named with the object to change.
func TestOtherMeshesAreFoundBeforeAnInstallation(t *testing.T) {
	k := &clitest.Kubernetes{}
	k.Put("/version", map[string]string{"gitVersion": "v1.37.2"})
	o := operator{t, clitest.Kubeconfig(t, k, t.TempDir())}
	daemons := func(names ...string) {
		list := appsv1.DaemonSetList{}
		for _, name := range names {
			list.Items = append(list.Items, appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "of-others", Name: name}})
		}
		k.Put("/apis/apps/v1/daemonsets", list)
	}
	cilium := func(data map[string]string) {
		k.Put("/api/v1/namespaces/kube-system/configmaps/cilium-config", corev1.ConfigMap{Data: data})
	}
	daemons("kube-proxy")
	says(t, o.must(0, "check", "--pre"), "√ other-meshes")
	daemons("kube-proxy", "istio-cni-node")
	says(t, o.must(0, "check", "--pre"), "‼ other-meshes", "DaemonSet of-others/istio-cni-node", "mesh.ignoreIstioLabels")
	daemons()
	cilium(map[string]string{"cni-exclusive": "false"})
	says(t, o.must(0, "check", "--pre"), "√ other-meshes")
	cilium(map[string]string{"cni-exclusive": "true"})
	says(t, o.must(2, "check", "--pre"), "× other-meshes", `change the ConfigMap kube-system/cilium-config: cni-exclusive: "false"`)
	cilium(map[string]string{"custom-cni-conf": "true"})
	says(t, o.must(0, "check", "--pre"), "‼ other-meshes", "does not say", "cni-exclusive")
	k.Delete("/apis/apps/v1/daemonsets")
	if text := o.must(0, "check", "--pre"); !strings.Contains(text, "- other-meshes") {
		t.Errorf("what cannot be read is no success:\n%s", text)
	}
}
