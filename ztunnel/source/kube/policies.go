// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// istioVersions are those of Istio's kinds that mean the same, the best first.
var istioVersions = []schema.GroupVersion{{Group: "security.istio.io", Version: "v1"}, {Group: "security.istio.io", Version: "v1beta1"}}

// istio are the kinds whose CustomResourceDefinitions may come later or never.
var istio = []struct {
	kind     source.Kind
	resource string
}{
	{source.KindPeerAuthentication, "peerauthentications"},
	{source.KindAuthorizationPolicy, "authorizationpolicies"},
}

// networkPolicyVersions are those of Kubernetes' own kind, which is read as policies are: with
// protobuf nobody would see a field that this version does not know, without which a rule
// may admit more.
var networkPolicyVersions = []schema.GroupVersionResource{networkingv1.SchemeGroupVersion.WithResource("networkpolicies")}

// PolicyResources are Istio's kinds, each in the versions that mean the same, the best first.
func PolicyResources() map[source.Kind][]schema.GroupVersionResource {
	out := map[source.Kind][]schema.GroupVersionResource{}
	for _, i := range istio {
		for _, version := range istioVersions {
			out[i.kind] = append(out[i.kind], version.WithResource(i.resource))
		}
	}
	return out
}

// ReadPolicy reads an object of a kind of policies, and takes its managed fields off. After
// an error the object has its name at least, and what could be read.
func ReadPolicy(kind source.Kind, u *unstructured.Unstructured) (source.Object, error) {
	switch kind {
	case source.KindPeerAuthentication:
		p := &source.PeerAuthentication{}
		return p, decode(u, p)
	case source.KindNetworkPolicy:
		p := &source.NetworkPolicy{}
		return p, p.Judge(decode(u, p))
	}
	p := &source.AuthorizationPolicy{}
	return p, p.Judge(decode(u, p))
}

// understandPolicy takes what comes from the API server of a kind of policies.
func understandPolicy(kind source.Kind) func(runtime.Object) (understood, error) {
	return func(o runtime.Object) (understood, error) {
		object, err := ReadPolicy(kind, o.(*unstructured.Unstructured))
		out := understood{Object: object}
		if p, ok := object.(interface{ Warnings() []string }); ok {
			out.narrower = strings.Join(p.Warnings(), "; ")
		}
		return out, err
	}
}

// decode fills into; fields that are not listed there are an error. After one,
// into has the object's name at least, and what could be read.
func decode(u *unstructured.Unstructured, into source.Object) error {
	u.SetManagedFields(nil)
	err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, into, true)
	into.SetNamespace(u.GetNamespace())
	into.SetName(u.GetName())
	return err
}
