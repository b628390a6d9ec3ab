// SPDX-License-Identifier: Apache-2.0

package main

import (
	"maps"
	"sync/atomic"

	"github.com/culvert-mesh/culvert/identity"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// leafNames are the DNS names that certificates give pods, by the CA's own source alone.
type leafNames struct {
	wanted   bool                                          // -dns-sans
	services atomic.Pointer[map[string][]workload.Service] // by namespace, as of the last snapshot
}

// learn takes over the Services of a snapshot.
func (n *leafNames) learn(all []workload.Service) {
	if !n.wanted {
		return
	}
	byNamespace := map[string][]workload.Service{}
	for _, s := range all {
		byNamespace[s.Namespace] = append(byNamespace[s.Namespace], s)
	}
	n.services.Store(&byNamespace)
}

// of returns the DNS names of a pod, and of the Services whose selector it has.
func (n *leafNames) of(w *workload.Packed) (names []string) {
	if !n.wanted {
		return nil
	}
	if name := identity.PodDNSName(w.Namespace, w.Name); name != "" {
		names = append(names, name)
	}
	services := n.services.Load()
	if services == nil {
		return names
	}
	labels := maps.Collect(w.Labels.All())
	for _, s := range (*services)[w.Namespace] {
		if selects(s.Selector, labels) {
			names = append(names, identity.ServiceDNSNames(s.Namespace, s.Name)...)
		}
	}
	return names
}

// selects is what a Service's selector says; an empty one selects nobody.
func selects(selector, labels map[string]string) bool {
	for key, value := range selector {
		if has, there := labels[key]; !there || has != value {
			return false
		}
	}
	return len(selector) > 0
}
