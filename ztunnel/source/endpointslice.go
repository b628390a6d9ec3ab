// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"unique"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// endpointSlice is what is kept of an EndpointSlice: there is an endpoint for each pod behind
// each Service, in 48 bytes here, where the object has 400.
type endpointSlice struct {
	ports     []workload.NamedPort // of TCP, with the target port's number
	endpoints []sliceEndpoint
}

type sliceEndpoint struct {
	addr                        netip.Addr
	node                        unique.Handle[string] // its name; "": not known
	hints                       *workload.Hints
	ready, serving, terminating bool
}

func newSlice(o *discoveryv1.EndpointSlice) *endpointSlice {
	s := &endpointSlice{}
	if o.AddressType == discoveryv1.AddressTypeFQDN {
		return s
	}
	for _, port := range o.Ports {
		number, ok := portNumber(deref(port.Port, 0))
		if ok && isTCP(deref(port.Protocol, corev1.ProtocolTCP)) {
			s.ports = append(s.ports, workload.NamedPort{Name: deref(port.Name, ""), Port: number})
		}
	}
	s.endpoints = make([]sliceEndpoint, 0, len(o.Endpoints))
	for _, e := range o.Endpoints {
		// What others beside the first would mean is not defined.
		for _, addr := range parseAddrs(e.Addresses[:min(1, len(e.Addresses))]) {
			// A condition that is absent counts as its usual state.
			s.endpoints = append(s.endpoints, sliceEndpoint{
				addr: addr, node: unique.Make(deref(e.NodeName, "")), hints: hints(e.Hints),
				ready:       deref(e.Conditions.Ready, true),
				serving:     deref(e.Conditions.Serving, true),
				terminating: deref(e.Conditions.Terminating, false),
			})
		}
	}
	return s
}

func hints(h *discoveryv1.EndpointHints) *workload.Hints {
	if h == nil {
		return nil
	}
	out := &workload.Hints{}
	for _, node := range h.ForNodes {
		out.Nodes = append(out.Nodes, node.Name)
	}
	for _, zone := range h.ForZones {
		out.Zones = append(out.Zones, zone.Name)
	}
	return out
}

// fromSlices collects the backends of the service port of that name: slices
// repeat the name and carry the target port's number.
func fromSlices(behind map[string]*endpointSlice, portName string) []backend {
	var out []backend
	for _, s := range behind {
		for _, port := range s.ports {
			if port.Name != portName {
				continue
			}
			for _, e := range s.endpoints {
				out = append(out, backend{
					Endpoint: workload.Endpoint{Addr: netip.AddrPortFrom(e.addr, port.Port), Node: e.node.Value(), Hints: e.hints},
					ready:    e.ready, serving: e.serving, terminating: e.terminating,
				})
			}
		}
	}
	return out
}
