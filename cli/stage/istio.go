// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
)

const (
	istioLabel = "istio.io/dataplane-mode"
	// redirection is the annotation of a pod that Istio's agent has taken in.
	redirection = "ambient.istio.io/redirection"

	istioAgent   = "istio-cni-node"
	istioZtunnel = "ztunnel" // Culvert's may be called so, too
)

// findIstio finds the DaemonSets of Istio's ambient mesh and is an error if one is not there
// or has no pod that is ready. Culvert's own ztunnel is told apart by the label app.
func (s *Stage) findIstio(ctx context.Context) error {
	ready := map[string]bool{}
	var unread error
	err := s.API.Pages(ctx, "/apis/apps/v1/daemonsets", func(text []byte) {
		var list appsv1.DaemonSetList
		unread = errors.Join(unread, json.Unmarshal(text, &list))
		for _, d := range list.Items {
			if d.Name == istioAgent || d.Name == istioZtunnel && d.Spec.Template.Labels["app"] == istioZtunnel {
				ready[d.Name] = ready[d.Name] || d.Status.NumberReady > 0
			}
		}
	})
	if err := errors.Join(err, unread); err != nil {
		return fmt.Errorf("--against istio: list DaemonSets: %w", err)
	}
	var missing []string
	for _, name := range []string{istioZtunnel, istioAgent} {
		if !ready[name] {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("--against istio: no DaemonSet %s of Istio has a pod that is ready: install Istio's profile ambient (istioctl install --set profile=ambient)",
			strings.Join(missing, " and "))
	}
	return nil
}
