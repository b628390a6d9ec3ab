// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// One that cannot be judged whole admits less than it was written to. One that is not
// understood keeps its former meaning.
func TestANetworkPolicyIsInForceWithWhatCanBeJudged(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Offer(networkPolicies)
	set := func(spec string) {
		server.Set(custom(t, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: shop, managedFields: [{manager: kubectl}]}, spec: `+spec+`}`))
	}
	is := func(rules, warnings int) func(source.Snapshot) bool {
		return func(s source.Snapshot) bool {
			return len(s.NetworkPolicies) == 1 && len(s.NetworkPolicies[0].Ingress.Rules) == rules && len(s.NetworkPolicies[0].Warnings) == warnings
		}
	}
	set(`{podSelector: {}, ingress: [{from: [{podSelector: {}}], ports: [{port: http}, {port: 80, endPort: 81}]}, {}]}`)
	w := start(t, options(server))
	w.until("two rules", is(2, 0))
	w.says("")
	in := w.last.NetworkPolicies
	server.Set(pod(t, "web-2", 2))
	w.until("another pod", func(s source.Snapshot) bool { return len(s.Mesh.Workloads) == 2 })
	if &in[0] != &w.last.NetworkPolicies[0] {
		t.Error("policies that did not change are another slice, so that all are compared again")
	}

	set(`{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}, {}]}`)
	w.until("one of which cannot be judged", is(1, 1))
	w.says(`NetworkPolicy shop/in: spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.0/33": not an address or a CIDR`)

	set(`{podSelector: {}, ingress: [{from: [{podSelector: {}, serviceAccountSelector: {}}]}, {}]}`)
	w.until("a field that this version does not know", is(1, 1))
	w.says(`NetworkPolicy shop/in: spec.ingress[0].from[0].serviceAccountSelector: not known to this version`)

	set(`{podSelector: {}, ingress: [{}, {}], unless: it rains}`)
	w.says(`NetworkPolicy shop/in: strict decoding error: unknown field "spec.unless"`)
	server.Set(pod(t, "web-3", 3))
	w.until("its former meaning", func(s source.Snapshot) bool { return is(1, 1)(s) && len(s.Mesh.Workloads) == 3 })

	server.Delete(custom(t, `{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: in, namespace: shop}}`))
	w.until("none", func(s source.Snapshot) bool { return len(s.NetworkPolicies) == 0 })
	w.says("")
}

// A value that means nothing is said of the namespace, and not of its pods.
func TestAStrangeNetworkPolicyModeIsSaid(t *testing.T) {
	server := startServer(t)
	server.Set(cluster(t)...)
	server.Set(namespace(t, "shop", "culvert.dev/mesh: enabled, culvert.dev/network-policy: enforced"))
	o := options(server)
	o.Node = "node-1"
	w := start(t, o)
	w.until("the pod in the mesh", func(s source.Snapshot) bool { return len(s.Mesh.Workloads) == 1 && s.Mesh.Workloads[0].Meshed })
	w.says(`Namespace shop: metadata.labels[culvert.dev/network-policy]: "enforced": not enforce, warn or off`)
	for _, p := range w.source.Own().Pods {
		if strings.Contains(p.Wrong, "network-policy") {
			t.Errorf("pod %s: %s", p.Name, p.Wrong)
		}
	}
	server.Set(namespace(t, "shop", "culvert.dev/mesh: enabled, culvert.dev/network-policy: enforce"))
	w.says("")
}
