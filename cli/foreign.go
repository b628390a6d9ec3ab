// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/culvert-mesh/culvert/cli/check"
	"github.com/culvert-mesh/culvert/cli/kubeapi"
)

// agents are DaemonSets of other meshes, by name, and what they do to a mesh beside them.
var agents = map[string]string{
	"istio-cni-node": "Istio's agent takes pods in that istio.io/dataplane-mode: ambient selects, as Culvert does without mesh.ignoreIstioLabels: a pod can belong to one mesh",
	"kmesh":          "Kmesh attaches programs of its own to the connections of its pods: label no namespace for both",
	"linkerd-cni":    "Linkerd redirects the connections of pods with its sidecar by iptables: such pods are not steered",
}

// Cilium's settings, and the key that says whether it removes other plugins' files.
const (
	ciliumNamespace = "kube-system"
	ciliumConfig    = "cilium-config"
	ciliumExclusive = "cni-exclusive"
)

// foreign finds what else looks after connections of the cluster's pods.
func foreign(ctx context.Context, api *kubeapi.API) (all []check.Foreign, err error) {
	var unread error
	err = api.Pages(ctx, "/apis/apps/v1/daemonsets", func(text []byte) {
		var list struct {
			Items []metav1.PartialObjectMetadata `json:"items"`
		}
		unread = errors.Join(unread, json.Unmarshal(text, &list))
		for _, d := range list.Items {
			if why := agents[d.Name]; why != "" {
				what := fmt.Sprintf("DaemonSet %s/%s", d.Namespace, d.Name)
				all = append(all, check.Foreign{What: what, Object: what, Why: why})
			}
		}
	})
	if err = errors.Join(err, unread); err != nil {
		return nil, fmt.Errorf("list DaemonSets: %w", err)
	}
	config, err := api.ConfigMap(ctx, ciliumNamespace, ciliumConfig)
	switch {
	case apierrors.IsNotFound(err):
		return all, nil
	case err != nil:
		return nil, fmt.Errorf("ConfigMap %s/%s: %w", ciliumNamespace, ciliumConfig, err)
	case config.Data[ciliumExclusive] == "true", config.Data[ciliumExclusive] == "":
		cilium := check.Foreign{
			What: "Cilium", Object: fmt.Sprintf("the ConfigMap %s/%s: %s: \"false\"", ciliumNamespace, ciliumConfig, ciliumExclusive),
			Breaks: true, Why: "it removes the files of other CNI plugins, and with them what keeps pods from starting unprotected",
		}
		if config.Data[ciliumExclusive] == "" { // before 1.13 that was true
			cilium.Breaks, cilium.Why = false, "its configuration does not say whether it removes the files of other CNI plugins: cni-exclusive"
		}
		all = append(all, cilium)
	}
	return all, nil
}
