// SPDX-License-Identifier: Apache-2.0

package source

import (
	"errors"
	"fmt"
	"slices"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// DefaultRootNamespace is where mesh-wide policies stand unless said otherwise.
const DefaultRootNamespace = "istio-system"

// Build makes a snapshot of objects. An error names each object which cannot
// be understood; the snapshot is then not to be used.
func Build(objects Objects, o Options) (Snapshot, error) {
	var errs []error
	mesh := workload.Mesh{Namespaces: make(map[string]workload.Namespace, len(objects.Namespaces))}
	for _, ns := range objects.Namespaces {
		in, _ := meshed(ns.Labels, nil, o)
		mesh.Namespaces[ns.Name] = workload.Namespace{Meshed: in, Labels: ns.Labels}
	}
	nodes := nodeAddrs{}
	for _, node := range objects.Nodes {
		nodes.add(node.Name, ownAddrs(node))
	}
	for _, pod := range objects.Pods {
		namespace, known := mesh.Namespaces[pod.Namespace]
		w, err := podWorkload(pod, namespace.Labels, known, objects.RuntimeClasses, o)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s/%s: %w", "Pod", pod.Namespace, pod.Name, err))
			continue
		}
		mesh.Workloads = append(mesh.Workloads, w)
		nodes.add(pod.Spec.NodeName, hostAddrs(pod))
	}
	mesh.Nodes = nodes.sorted()
	mesh.Services = services(objects)

	policies, err := policies(objects, o)
	if err := errors.Join(append(errs, err)...); err != nil {
		return Snapshot{}, err
	}
	return Snapshot{Policies: policies, Mesh: mesh}, nil
}

func policies(objects Objects, o Options) (policy.Objects, error) {
	out := policy.Objects{RootNamespace: o.RootNamespace}
	if out.RootNamespace == "" {
		out.RootNamespace = DefaultRootNamespace
	}
	var errs []error
	for _, p := range objects.PeerAuthentications {
		compiled, err := p.Policy()
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", compiled, err))
		}
		out.PeerAuthentications = append(out.PeerAuthentications, compiled)
	}
	for _, p := range objects.AuthorizationPolicies {
		compiled, err := p.Policy()
		if err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", compiled, err))
		}
		out.AuthorizationPolicies = append(out.AuthorizationPolicies, compiled)
	}
	return out, errors.Join(errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for key := range m {
		out = append(out, key)
	}
	slices.Sort(out)
	return out
}
