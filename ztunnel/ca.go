// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// replicas returns the addresses of the CA's pods that serve now, if its address names
// a Service that the registry has. So the CA is found without DNS, whose pods may be in
// the mesh and wait for us, and without kube-proxy, which leads to a pod that is gone
// until it is told.
func replicas(address string, registry *workload.Registry) func() []netip.AddrPort {
	host, text, err := net.SplitHostPort(address)
	labels := strings.Split(host, ".")
	port, portErr := strconv.ParseUint(text, 10, 16)
	if err != nil || portErr != nil || len(labels) < 3 || labels[2] != "svc" {
		return nil
	}
	return func() []netip.AddrPort {
		for _, service := range registry.All().Services {
			if service.Name == labels[0] && service.Namespace == labels[1] {
				return serving(service, uint16(port))
			}
		}
		return nil
	}
}

// serving are the endpoints of one port, those of IPv4 first: the ready ones, or, if
// there are none, those that terminate and still serve.
func serving(service workload.Service, port uint16) []netip.AddrPort {
	var ready, leaving []netip.AddrPort
	for _, p := range service.Ports {
		if p.Port != port {
			continue
		}
		for _, e := range p.Endpoints {
			if e.Leaving {
				leaving = append(leaving, e.Addr)
			} else {
				ready = append(ready, e.Addr)
			}
		}
	}
	if ready == nil {
		ready = leaving
	}
	slices.SortStableFunc(ready, func(a, b netip.AddrPort) int { return a.Addr().BitLen() - b.Addr().BitLen() })
	return ready
}
