// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// istioVersions are those of Istio's kinds that mean the same, the best first.
var istioVersions = []schema.GroupVersion{{Group: "security.istio.io", Version: "v1"}, {Group: "security.istio.io", Version: "v1beta1"}}

// istio are the kinds whose CustomResourceDefinitions may come later or never.
var istio = []struct {
	kind       source.Kind
	resource   string
	understand func(runtime.Object) (understood, error)
}{
	{source.KindPeerAuthentication, "peerauthentications", func(o runtime.Object) (understood, error) {
		p := &source.PeerAuthentication{}
		err := decode(o, p)
		return understood{Object: p}, err
	}},
	{source.KindAuthorizationPolicy, "authorizationpolicies", func(o runtime.Object) (understood, error) {
		p := &source.AuthorizationPolicy{}
		err := decode(o, p)
		return understood{Object: p}, err
	}},
}

// decode fills into; fields that are not listed there are an error. After one,
// into has the object's name at least, and what could be read.
func decode(o runtime.Object, into source.Object) error {
	u := o.(*unstructured.Unstructured)
	u.SetManagedFields(nil)
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, into, true)
	into.SetNamespace(u.GetNamespace())
	into.SetName(u.GetName())
	return err
}
