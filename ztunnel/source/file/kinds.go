// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// kind is one that we read.
type kind struct {
	apiVersions []string
	make        func() object
	// lenient: a field that we do not know is said and passed over. It decides
	// neither who is in the mesh nor who may connect.
	lenient bool
}

const istioGroup = "security.istio.io"

var (
	istioVersions = []string{istioGroup + "/v1", istioGroup + "/v1beta1"}

	kinds = map[string]kind{
		"Namespace":           {[]string{"v1"}, func() object { return &corev1.Namespace{} }, false},
		"Node":                {[]string{"v1"}, func() object { return &corev1.Node{} }, true},
		"ServiceAccount":      {[]string{"v1"}, func() object { return &corev1.ServiceAccount{} }, false},
		"Pod":                 {[]string{"v1"}, func() object { return &corev1.Pod{} }, false},
		"Service":             {[]string{"v1"}, func() object { return &corev1.Service{} }, true},
		"RuntimeClass":        {[]string{"node.k8s.io/v1"}, func() object { return &nodev1.RuntimeClass{} }, true},
		"EndpointSlice":       {[]string{"discovery.k8s.io/v1"}, func() object { return &discoveryv1.EndpointSlice{} }, true},
		"PeerAuthentication":  {istioVersions, func() object { return &source.PeerAuthentication{} }, false},
		"AuthorizationPolicy": {istioVersions, func() object { return &source.AuthorizationPolicy{} }, false},
		"NetworkPolicy":       {[]string{"networking.k8s.io/v1"}, func() object { return &source.NetworkPolicy{} }, false},
	}
)

func namespaced(kind string) bool {
	return kind != "Namespace" && kind != "Node" && kind != "RuntimeClass"
}

func isPolicy(kind string) bool {
	return kind == "PeerAuthentication" || kind == "AuthorizationPolicy" || kind == "NetworkPolicy"
}

func group(apiVersion string) string {
	g, _, found := strings.Cut(apiVersion, "/")
	if !found {
		return ""
	}
	return g
}

// known returns our kind of that name. Of another group it is another kind, as Knative's
// Service is; but a policy of a group that nobody knows may be one of ours, misspelt.
func (h header) known() (k kind, ok bool, err error) {
	k, ok = kinds[h.Kind]
	switch {
	case !ok || slices.Contains(k.apiVersions, h.APIVersion):
		return k, ok, nil
	case group(h.APIVersion) != group(k.apiVersions[0]) && group(h.APIVersion) != "" && (!isPolicy(h.Kind) || h.restricts()):
		return k, false, nil
	}
	return k, true, fmt.Errorf("apiVersion: %q: not %s", h.APIVersion, strings.Join(k.apiVersions, " or "))
}

// isList reports whether it holds objects: a List, or a kind's own list.
func (h header) isList() bool {
	if h.Kind == "List" {
		return h.APIVersion == "v1"
	}
	single, list := strings.CutSuffix(h.Kind, "List")
	k, known := kinds[single]
	return list && known && group(h.APIVersion) == group(k.apiVersions[0])
}

// mistaken refuses kinds that look like one of ours: a policy with a typing
// error in its kind must not be ignored, nor a list of them.
func (h header) mistaken() error {
	if group(h.APIVersion) == istioGroup && !h.restricts() {
		return fmt.Errorf("kind: %q: not one of %s", h.Kind, istioGroup)
	}
	if strings.EqualFold(h.Kind, "List") {
		return fmt.Errorf("kind: %q of %q: not List of v1", h.Kind, h.APIVersion)
	}
	for name := range kinds {
		for _, name := range []string{name, name + "List"} {
			if strings.EqualFold(name, h.Kind) && name != h.Kind {
				return fmt.Errorf("kind: %q: not %s", h.Kind, name)
			}
		}
	}
	return nil
}

// restricting are kinds of others by which people say who may connect. Nobody
// should take one for a rule that the mesh keeps.
var restricting = map[string][]string{
	istioGroup:                 {"RequestAuthentication"},
	"policy.networking.k8s.io": {"AdminNetworkPolicy", "BaselineAdminNetworkPolicy", "ClusterNetworkPolicy"},
	"policy.linkerd.io":        {"Server", "ServerAuthorization", "AuthorizationPolicy", "MeshTLSAuthentication", "NetworkAuthentication"},
	"cilium.io":                {"CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"},
	"projectcalico.org":        {"NetworkPolicy", "GlobalNetworkPolicy"},
	"crd.projectcalico.org":    {"NetworkPolicy", "GlobalNetworkPolicy"},
}

func (h header) restricts() bool {
	return slices.Contains(restricting[group(h.APIVersion)], strings.TrimSuffix(h.Kind, "List"))
}
