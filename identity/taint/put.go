// SPDX-License-Identifier: Apache-2.0

package taint

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// put gives a node the taint, and reports whether it did: not if the API server, asked
// now, does not say what the watches told, nor if anybody changes the Node meanwhile.
func (w *Watch) put(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var o corev1.Node
	if err := w.client.Get().Resource("nodes").Name(name).Do(ctx).Into(&o); err != nil {
		return false, err
	}
	if z, err := w.ask(ctx, name); err != nil || z.ready || !z.there || w.tainted(&o) || !able(&o) {
		return false, err
	}
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": o.UID, "resourceVersion": o.ResourceVersion},
		"spec":     map[string]any{"taints": append(o.Spec.Taints, corev1.Taint{Key: w.Key, Effect: corev1.TaintEffectNoSchedule})},
	})
	if err == nil {
		err = w.client.Patch(types.MergePatchType).Resource("nodes").Name(name).Body(body).Do(ctx).Error()
	}
	if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil, err
}

// ask asks the API server how a node's ztunnel is.
func (w *Watch) ask(ctx context.Context, node string) (z ztunnel, err error) {
	for _, account := range w.Accounts {
		var list corev1.PodList
		there := metav1.ListOptions{FieldSelector: fields.AndSelectors(ofAccount(account), fields.OneTermEqualSelector("spec.nodeName", node)).String()}
		if err := w.client.Get().Namespace(account.Namespace).Resource("pods").VersionedParams(&there, metav1.ParameterCodec).Do(ctx).Into(&list); err != nil {
			return z, fmt.Errorf("pods of %v on %s: %v", account, node, err)
		}
		for i := range list.Items {
			if pod := &list.Items[i]; pod.Namespace == account.Namespace && pod.Spec.ServiceAccountName == account.Name && pod.Spec.NodeName == node {
				z = z.add(pod)
			}
		}
	}
	return z, nil
}
