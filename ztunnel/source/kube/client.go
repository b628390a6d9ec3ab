// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// ClientConfig reads a kubeconfig, a file or InCluster, for a client of its API
// server. The API server is not asked.
func ClientConfig(kubeconfig string) (*rest.Config, error) {
	var config *rest.Config
	var err error
	if kubeconfig == InCluster {
		config, err = rest.InClusterConfig()
	} else {
		rules := &clientcmd.ClientConfigLoadingRules{ExplicitPath: kubeconfig}
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %v", kubeconfig, err)
	}
	config.QPS = -1 // whoever asks more than a watch for each kind bounds that
	config.UserAgent = "culvert " + rest.DefaultKubernetesUserAgent()
	config.WarningHandler = rest.NoWarnings{}
	return config, nil
}

// Check says what is wrong with a kubeconfig. The API server is not asked.
func Check(kubeconfig string) error {
	_, err := ClientConfig(kubeconfig)
	return err
}

// ownKind is one of Kubernetes' own kinds.
type ownKind struct {
	example  source.Object
	version  schema.GroupVersion
	resource string
	place    bool // it decides which pods of the mesh run where
	optional bool
}

// accounts are for PlacementOnly alone: whoever issues certificates goes by them.
var accounts = ownKind{&corev1.ServiceAccount{}, corev1.SchemeGroupVersion, "serviceaccounts", true, false}

// builtIn are what everybody watches, as far as it places pods where only that is asked
// for. ServiceCIDRs are served since 1.33.
var builtIn = []ownKind{
	{&corev1.Namespace{}, corev1.SchemeGroupVersion, "namespaces", true, false},
	{&corev1.Node{}, corev1.SchemeGroupVersion, "nodes", false, false},
	{&corev1.Pod{}, corev1.SchemeGroupVersion, "pods", true, false},
	{&corev1.Service{}, corev1.SchemeGroupVersion, "services", false, false},
	{&discoveryv1.EndpointSlice{}, discoveryv1.SchemeGroupVersion, "endpointslices", false, false},
	{&nodev1.RuntimeClass{}, nodev1.SchemeGroupVersion, "runtimeclasses", true, false},
	{&networkingv1.ServiceCIDR{}, networkingv1.SchemeGroupVersion, "servicecidrs", false, true},
}

// newKinds makes clients for all kinds that are asked for.
func (s *Source) newKinds(config *rest.Config) ([]*kind, error) {
	var err error
	if s.clients, err = newBuiltInClients(config, s.client); err != nil {
		return nil, err
	}
	var out []*kind
	all := builtIn
	if s.options.PlacementOnly {
		all = append(slices.Clone(builtIn), accounts)
	}
	for _, b := range all {
		if s.options.PlacementOnly && !b.place && !(s.options.Build.Selectors && b.resource == "services") {
			continue
		}
		out = append(out, &kind{
			Kind: source.KindOf(b.example), source: s, example: b.example, optional: b.optional, understand: trimmed,
			versions: []*cache.ListWatch{cache.NewListWatchFromClient(s.clients[b.version], b.resource, metav1.NamespaceAll, fields.Everything())},
			wrong:    map[source.Name]string{},
		})
	}
	if s.options.PlacementOnly {
		return out, nil
	}
	any, err := dynamic.NewForConfigAndClient(config, s.client)
	if err != nil {
		return nil, fmt.Errorf("client of %s: %v", config.Host, err)
	}
	policies := PolicyResources()
	policies[source.KindNetworkPolicy] = networkPolicyVersions
	for _, of := range slices.Sorted(maps.Keys(policies)) {
		k := &kind{Kind: of, source: s, example: &unstructured.Unstructured{}, optional: true, decides: true, understand: understandPolicy(of), wrong: map[source.Name]string{}}
		for _, resource := range policies[of] {
			k.versions = append(k.versions, listWatch(any.Resource(resource)))
		}
		out = append(out, k)
	}
	return out, nil
}

// newBuiltInClients returns a client for each version of builtIn. They speak
// protobuf, and know no other kinds than these: those of all of Kubernetes would
// be most of the program.
func newBuiltInClients(config *rest.Config, client *http.Client) (map[schema.GroupVersion]rest.Interface, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, discoveryv1.AddToScheme, nodev1.AddToScheme, networkingv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	clients := map[schema.GroupVersion]rest.Interface{}
	for _, b := range builtIn {
		c := rest.CopyConfig(config)
		c.GroupVersion = &b.version
		c.APIPath = "/apis"
		if b.version.Group == "" {
			c.APIPath = "/api"
		}
		c.ContentType = runtime.ContentTypeProtobuf
		c.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
		c.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		var err error
		if clients[b.version], err = rest.RESTClientForConfigAndClient(c, client); err != nil {
			return nil, fmt.Errorf("client of %s: %v", config.Host, err)
		}
	}
	return clients, nil
}

func listWatch(resource dynamic.ResourceInterface) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return resource.List(ctx, o) },
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return resource.Watch(ctx, o)
		},
	}
}
