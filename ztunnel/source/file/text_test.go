// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

const halfUnderstood = `
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: web, namespace: shop},
 spec: {rules: [{to: [{operation: {ports: ["08080"]}}]}], selectors: {matchLabels: {app: web}}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: web}, spec: {containers: [{name: c}]}}
---
{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: np}}
---
{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: mode}, spec: {mtls: {mode: [STRICT]}}}
`

// What is broken is there, with what is wrong with it: a tool can look at all the rest.
func TestATextHasObjectsWithTheirMistakes(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.yaml": halfUnderstood, "b.json": `{"kind": "Pod"}`, "notes.txt": "no object"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(text.Objects) != 2 || text.Objects[0].GetName() != "web" || text.Objects[1].GetNamespace() != "default" || text.Objects[1].Place != "a.yaml: document 2" {
		t.Fatalf("got %v", text.Objects)
	}
	var m *Mistake
	if !errors.As(text.Mistakes[0], &m) || m.Error() != `a.yaml: document 1: AuthorizationPolicy shop/web: unknown field "spec.selectors"` {
		t.Errorf("the first mistake is %v", text.Mistakes[0])
	}
	if kind, name := m.Of(); kind != source.KindAuthorizationPolicy || name != (source.Name{Namespace: "shop", Name: "web"}) {
		t.Errorf("it is of %s %s", kind, name)
	}
	if last := text.Mistakes[len(text.Mistakes)-1].Error(); last != "b.json: document 1: Pod: apiVersion: required" {
		t.Errorf("the last mistake is %v", last)
	}
	if len(text.Remarks) != 1 || !errors.Is(text.Remarks[0], ErrNotEnforced) {
		t.Errorf("remarks: %v", text.Remarks)
	}
}

const deployed = `
{apiVersion: apps/v1, kind: Deployment, metadata: {name: web, namespace: shop}, spec: {template: {
 metadata: {labels: {app: web}}, spec: {serviceAccountName: web, containers: [{name: c, ports: [{containerPort: 8080}]}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: night}, spec: {jobTemplate: {spec: {template: {metadata: {labels: {app: night}}}}}}}
---
{apiVersion: serving.knative.dev/v1, kind: Deployment, metadata: {name: other}}
`

// Manifests are often kept without the pods that will be made of them.
func TestATextHasThePodsThatWillBeMade(t *testing.T) {
	var text Text
	text.Add("web.yaml", []byte(deployed))
	var got []string
	for _, o := range text.Objects {
		got = append(got, o.Place+" "+o.GetNamespace()+" "+o.GetName()+" "+o.GetLabels()["app"])
	}
	if want := []string{"web.yaml: document 1 shop deployment/web web", "web.yaml: document 2 default cronjob/night night"}; !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	if pod := text.Objects[0].Object.(*corev1.Pod); pod.Spec.ServiceAccountName != "web" || pod.Spec.Containers[0].Ports[0].ContainerPort != 8080 {
		t.Errorf("got %v", pod.Spec)
	}
}
