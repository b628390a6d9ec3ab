// SPDX-License-Identifier: Apache-2.0

package taint

import (
	"context"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/culvert-mesh/culvert/identity"
)

// newClient knows the core kinds only.
func newClient(api *rest.Config) (rest.Interface, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	metav1.AddToGroupVersion(scheme, corev1.SchemeGroupVersion)
	config := rest.CopyConfig(api)
	config.GroupVersion, config.APIPath = &corev1.SchemeGroupVersion, "/api"
	config.ContentType = runtime.ContentTypeJSON
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	return rest.RESTClientFor(config)
}

// followed is all objects of a sort, as the API server tells them.
type followed struct {
	store      cache.Store
	controller cache.Controller
	answered   atomic.Bool // what was asked last
}

func follow(client rest.Interface, resource, namespace string, of fields.Selector, example runtime.Object, trim cache.TransformFunc) *followed {
	f := &followed{}
	all := cache.NewListWatchFromClient(client, resource, namespace, of)
	noted := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			list, err := all.ListWithContext(ctx, o)
			f.answered.Store(err == nil)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			events, err := all.WatchWithContext(ctx, o)
			f.answered.Store(err == nil)
			return events, err
		},
	}
	f.store, f.controller = cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: noted, ObjectType: example, Handler: cache.ResourceEventHandlerFuncs{}, Transform: trim,
	})
	return f
}

// start follows until ctx ends. Nobody waits for the end: an informer that waits before
// it asks again does not hear of it.
func (f *followed) start(ctx context.Context) {
	go f.controller.RunWithContext(klog.NewContext(ctx, klog.New(nil)))
}

// sound reports whether all objects are known, and their changes would be.
func (f *followed) sound() bool { return f.controller.HasSynced() && f.answered.Load() }

func followNodes(client rest.Interface) *followed {
	return follow(client, "nodes", metav1.NamespaceAll, fields.Everything(), &corev1.Node{}, func(o any) (any, error) {
		if node, ok := o.(*corev1.Node); ok {
			return &corev1.Node{
				ObjectMeta: metav1.ObjectMeta{Name: node.Name, UID: node.UID, ResourceVersion: node.ResourceVersion, DeletionTimestamp: node.DeletionTimestamp},
				Spec:       corev1.NodeSpec{Taints: node.Spec.Taints},
				Status:     corev1.NodeStatus{Conditions: node.Status.Conditions},
			}, nil
		}
		return o, nil
	})
}

func followPods(client rest.Interface, account identity.ServiceAccount) *followed {
	return follow(client, "pods", account.Namespace, ofAccount(account), &corev1.Pod{}, func(o any) (any, error) {
		if pod, ok := o.(*corev1.Pod); ok {
			return &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, ResourceVersion: pod.ResourceVersion, DeletionTimestamp: pod.DeletionTimestamp},
				Spec:       corev1.PodSpec{NodeName: pod.Spec.NodeName, ServiceAccountName: pod.Spec.ServiceAccountName},
				Status:     corev1.PodStatus{Phase: pod.Status.Phase, Conditions: pod.Status.Conditions},
			}, nil
		}
		return o, nil
	})
}

func ofAccount(account identity.ServiceAccount) fields.Selector {
	return fields.OneTermEqualSelector("spec.serviceAccountName", account.Name)
}

// ztunnels is how those of all nodes are, by the node's name.
func (w *Watch) ztunnels() map[string]ztunnel {
	out := map[string]ztunnel{}
	for i, account := range w.Accounts {
		for _, o := range w.pods[i].store.List() {
			if pod := o.(*corev1.Pod); pod.Namespace == account.Namespace && pod.Spec.ServiceAccountName == account.Name {
				out[pod.Spec.NodeName] = out[pod.Spec.NodeName].add(pod)
			}
		}
	}
	return out
}
