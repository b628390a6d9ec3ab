// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// maker is an object by which a controller makes pods.
type maker struct {
	place
	key
	text []byte
}

// makers are the kinds of such objects, by group.
var makers = map[string][]string{
	"apps":  {"Deployment", "StatefulSet", "DaemonSet", "ReplicaSet"},
	"batch": {"Job", "CronJob"},
}

func (h header) makesPods() bool { return slices.Contains(makers[group(h.APIVersion)], h.Kind) }

// pod is one as m would make it, as far as m can be understood.
func (m maker) pod() *corev1.Pod {
	var made struct {
		Spec struct {
			Template    corev1.PodTemplateSpec
			JobTemplate struct {
				Spec struct{ Template corev1.PodTemplateSpec }
			}
		}
	}
	_ = json.Unmarshal(m.text, &made) // it is a hint only
	t := made.Spec.Template
	if m.kind == "CronJob" {
		t = made.Spec.JobTemplate.Spec.Template
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name:      strings.ToLower(string(m.kind)) + "/" + m.name.Name,
			Namespace: cmp.Or(m.name.Namespace, metav1.NamespaceDefault), Labels: t.Labels, Annotations: t.Annotations,
		},
		Spec: t.Spec,
	}
}
