// SPDX-License-Identifier: Apache-2.0

package kubetest

import (
	"net/http"
	"reflect"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
)

// scheme is what the server can say in protobuf.
var scheme = func() *runtime.Scheme {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{authenticationv1.AddToScheme, corev1.AddToScheme, discoveryv1.AddToScheme, nodev1.AddToScheme, networkingv1.AddToScheme} {
		utilruntime.Must(add(s))
	}
	metav1.AddToGroupVersion(s, schema.GroupVersion{Version: "v1"})
	return s
}()

// lists are the kinds by their resources, with their lists.
var lists = map[string]struct{ one, many runtime.Object }{
	"namespaces":      {&corev1.Namespace{}, &corev1.NamespaceList{}},
	"nodes":           {&corev1.Node{}, &corev1.NodeList{}},
	"serviceaccounts": {&corev1.ServiceAccount{}, &corev1.ServiceAccountList{}},
	"pods":            {&corev1.Pod{}, &corev1.PodList{}},
	"events":          {&corev1.Event{}, &corev1.EventList{}},
	"secrets":         {&corev1.Secret{}, &corev1.SecretList{}},
	"configmaps":      {&corev1.ConfigMap{}, &corev1.ConfigMapList{}},
	"services":        {&corev1.Service{}, &corev1.ServiceList{}},
	"endpointslices":  {&discoveryv1.EndpointSlice{}, &discoveryv1.EndpointSliceList{}},
	"runtimeclasses":  {&nodev1.RuntimeClass{}, &nodev1.RuntimeClassList{}},
	"servicecidrs":    {&networkingv1.ServiceCIDR{}, &networkingv1.ServiceCIDRList{}},
}

// blank returns an object of the answer's kind.
func (a *answer) blank() Object {
	if l, ok := lists[a.resource]; ok {
		return reflect.New(reflect.TypeOf(l.one).Elem()).Interface().(Object)
	}
	u := &unstructured.Unstructured{}
	u.SetAPIVersion(a.group.String())
	u.SetKind("Bookmark")
	return u
}

func (a *answer) list(objects []Object, version, next string) {
	var list runtime.Object = &unstructured.UnstructuredList{Object: map[string]any{"apiVersion": a.group.String(), "kind": "List"}}
	if l, ok := lists[a.resource]; ok {
		list = reflect.New(reflect.TypeOf(l.many).Elem()).Interface().(runtime.Object)
	}
	items := make([]runtime.Object, len(objects))
	for i, o := range objects {
		items[i] = o
	}
	utilruntime.Must(meta.SetList(list, items))
	m, err := meta.ListAccessor(list)
	utilruntime.Must(err)
	m.SetResourceVersion(version)
	m.SetContinue(next)
	a.w.Header().Set("Content-Type", a.mediaType())
	a.w.WriteHeader(http.StatusOK)
	a.w.Write(a.encode(list))
}
