// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/rest"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Ask asks the API server which pods of a ServiceAccount run on a node, now, and
// decides as a snapshot does whether each is in the mesh. It is for whoever must not
// say no because a watch is late: a pod that names no ServiceAccount is of none.
func (s *Source) Ask(ctx context.Context, node, namespace, serviceAccount string) (workload.Workloads, error) {
	core := s.clients[corev1.SchemeGroupVersion]
	var list corev1.PodList
	onNode := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("spec.nodeName", node).String()}
	if err := core.Get().Namespace(namespace).Resource("pods").VersionedParams(&onNode, metav1.ParameterCodec).Do(ctx).Into(&list); err != nil {
		return nil, fmt.Errorf("pods of %s on %s: %v", namespace, node, err)
	}
	b := source.NewBuilder(s.options.Build)
	found := false
	for i := range list.Items {
		pod := &list.Items[i]
		if pod.Namespace != namespace || pod.Spec.NodeName != node || pod.Spec.ServiceAccountName != serviceAccount {
			continue
		}
		found = true
		if err := b.Set(pod); err != nil {
			continue // nobody reaches it: a snapshot leaves it out, too
		}
		if class := pod.Spec.RuntimeClassName; class != nil {
			if err := add(ctx, s.clients[nodev1.SchemeGroupVersion], "runtimeclasses", *class, &nodev1.RuntimeClass{}, b); err != nil {
				return nil, err
			}
		}
	}
	if !found {
		return nil, nil
	}
	if err := add(ctx, core, "namespaces", namespace, &corev1.Namespace{}, b); err != nil {
		return nil, err
	}
	return b.Snapshot().Mesh.Workloads, nil
}

// AskAccount asks the API server for a ServiceAccount, now.
func (s *Source) AskAccount(ctx context.Context, namespace, name string) (a source.Account, found bool, err error) {
	var o corev1.ServiceAccount
	err = s.clients[corev1.SchemeGroupVersion].Get().Namespace(namespace).Resource("serviceaccounts").Name(name).Do(ctx).Into(&o)
	switch {
	case apierrors.IsNotFound(err):
		return source.Account{}, false, nil
	case err != nil:
		return source.Account{}, false, fmt.Errorf("ServiceAccount %s/%s: %v", namespace, name, err)
	}
	return source.AccountOf(&o), true, nil
}

// AskNode asks the API server for the UID of a Node, now. Its error wraps the API server's.
func (s *Source) AskNode(ctx context.Context, name string) (uid string, found bool, err error) {
	var o corev1.Node
	err = s.clients[corev1.SchemeGroupVersion].Get().Resource("nodes").Name(name).Do(ctx).Into(&o)
	switch {
	case apierrors.IsNotFound(err):
		return "", false, nil
	case err != nil:
		return "", false, fmt.Errorf("get Node %s: %w", name, err)
	}
	return string(o.UID), true, nil
}

// add gets an object and gives it to b. One that is not there says nothing.
func add(ctx context.Context, client rest.Interface, resource, name string, into source.Object, b *source.Builder) error {
	err := client.Get().Resource(resource).Name(name).Do(ctx).Into(into)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("%s %s: %v", resource, name, err)
	}
	return b.Set(into)
}
