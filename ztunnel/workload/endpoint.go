// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"net/netip"
	"slices"
)

// Endpoint is one address behind a service's port. It is ready unless it is Leaving.
type Endpoint struct {
	Addr netip.AddrPort
	Node string // on which it runs; empty: not known
	// Leaving: it terminates and still serves. It gets connections only while
	// nobody is ready.
	Leaving bool
	// Hints say who should prefer it; nil: nobody in particular.
	Hints *Hints
}

// Hints are the names of the nodes and zones that an endpoint is meant for.
type Hints struct{ Nodes, Zones []string }

// place is where connections come from.
type place struct{ node, zone string } // empty: not known

// endpoint is an Endpoint with who is there. It repeats the address, so that a choice
// reads nothing else.
type endpoint struct {
	addr netip.AddrPort
	peer *Packed // nil: nobody of the mesh
	*Endpoint
}

// on reports whether the endpoint runs on that node.
func (e endpoint) on(node string) bool {
	return node != "" && (e.Node == node || e.Node == "" && e.peer != nil && e.peer.Node == node)
}

// clusterEndpoints are those of one service port and family that get connections
// from here under the traffic policy Cluster: the ready ones for which hints speak,
// or, if nobody is ready, the leaving ones. As kube-proxy's CategorizeEndpoints.
func clusterEndpoints(all []endpoint, here place) []endpoint {
	meant := byHints(all, here)
	usable := filter(all, func(e endpoint) bool { return !e.Leaving && meant(e) })
	if len(usable) == 0 {
		usable = filter(all, func(e endpoint) bool { return e.Leaving })
	}
	return usable
}

// localEndpoints are those that get connections under the traffic policy Local:
// the ready ones of the node, or, if there are none, its leaving ones.
func localEndpoints(all []endpoint, node string) []endpoint {
	usable := filter(all, func(e endpoint) bool { return !e.Leaving && e.on(node) })
	if len(usable) == 0 {
		usable = filter(all, func(e endpoint) bool { return e.Leaving && e.on(node) })
	}
	return usable
}

// byHints says which ready endpoints are meant for this place: by node if all have
// a hint of nodes and one is for this node, else by zone in the same way, else all.
func byHints(all []endpoint, here place) func(endpoint) bool {
	forNode := func(e endpoint) bool { return e.Hints != nil && slices.Contains(e.Hints.Nodes, here.node) }
	forZone := func(e endpoint) bool { return e.Hints != nil && slices.Contains(e.Hints.Zones, here.zone) }
	allNodes, allZones, node, zone := true, true, false, false
	for _, e := range all {
		if e.Leaving {
			continue
		}
		allNodes = allNodes && e.Hints != nil && len(e.Hints.Nodes) > 0
		allZones = allZones && e.Hints != nil && len(e.Hints.Zones) > 0
		if !allNodes && !allZones {
			break
		}
		node, zone = node || forNode(e), zone || forZone(e)
	}
	switch {
	case allNodes && node:
		return forNode
	case allZones && zone:
		return forZone
	}
	return func(endpoint) bool { return true }
}

// filter returns all itself if nothing falls out.
func filter(all []endpoint, keep func(endpoint) bool) []endpoint {
	first := slices.IndexFunc(all, func(e endpoint) bool { return !keep(e) })
	if first < 0 {
		return all
	}
	kept := slices.Clone(all[:first])
	for _, e := range all[first+1:] {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	return kept
}
