// SPDX-License-Identifier: Apache-2.0

// Package configdump writes workloads, services and policies as Istio's ztunnel
// has them in its /config_dump, for the tools that read that: istioctl
// ztunnel-config and Kiali. Their readers tell lists and maps apart, and fail on
// the other. Beside Istio's names stand those of Culvert's own that say more.
package configdump

import (
	"net/netip"
	"slices"
	"strconv"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// Protocols by which a workload is reached, and a connection goes.
const (
	HBONE = "HBONE" // both ends prove themselves in mutual TLS
	TCP   = "TCP"   // plaintext
)

const (
	healthy   = "Healthy"
	unhealthy = "Unhealthy"
)

// Workload is one pod. The fields of workload.Workload keep their own names, which
// Istio's readers take in any case: UID is uid to them.
type Workload struct {
	workload.Workload
	WorkloadIPs  []netip.Addr `json:"workloadIps"`
	Protocol     string       `json:"protocol"` // HBONE or TCP
	Status       string       `json:"status"`   // Healthy: its endpoints count
	WorkloadName string       `json:"workloadName"`
	WorkloadType string       `json:"workloadType"`
	ClusterID    string       `json:"clusterId"`
	TrustDomain  string       `json:"trustDomain"`
	Services     []string     `json:"services"` // that lead to it, as "NAMESPACE/HOSTNAME"
	Locality     Locality     `json:"locality,omitzero"`
}

// Locality is where a workload's node is.
type Locality struct {
	Region string `json:"region"`
	Zone   string `json:"zone"`
}

// Workloads are the pods of a mesh in a cluster of that name, with the services that lead to
// them; where is asked for the locality of each node.
func Workloads(pods []workload.Workload, services []workload.Service, cluster string, where func(node string) workload.Locality) []Workload {
	leading := leadingTo(services)
	out := make([]Workload, len(pods))
	for i, w := range pods {
		out[i] = Workload{
			Workload: w, WorkloadIPs: nonNil(w.Addrs), Protocol: TCP, Status: unhealthy,
			WorkloadName: w.Owner, WorkloadType: "pod", ClusterID: cluster, TrustDomain: w.ID.TrustDomain().Name(),
			Services: []string{}, Locality: Locality(where(w.Node)),
		}
		for _, a := range w.Addrs {
			out[i].Services = append(out[i].Services, leading[a]...)
		}
		slices.Sort(out[i].Services)
		out[i].Services = slices.Compact(out[i].Services)
		if w.Meshed {
			out[i].Protocol = HBONE
		}
		if w.Ready {
			out[i].Status = healthy
		}
	}
	return out
}

// leadingTo are the services of which an address is an endpoint.
func leadingTo(services []workload.Service) map[netip.Addr][]string {
	leading := map[netip.Addr][]string{}
	for _, s := range services {
		name := s.Namespace + "/" + s.Hostname()
		for _, p := range s.Ports {
			for _, e := range p.Endpoints {
				if all := leading[e.Addr.Addr()]; len(all) == 0 || all[len(all)-1] != name {
					leading[e.Addr.Addr()] = append(all, name)
				}
			}
		}
	}
	return leading
}

// Service is one service. Its names are Istio's, but for those said to be ours.
type Service struct {
	Name       string              `json:"name"`
	Namespace  string              `json:"namespace"`
	Hostname   string              `json:"hostname"`
	VIPs       []string            `json:"vips"`      // "NETWORK/ADDRESS", of no network
	Ports      map[string]uint16   `json:"ports"`     // target by port; 0: endpoints differ, or there are none
	Endpoints  map[string]Endpoint `json:"endpoints"` // by workload; of one that is not known by address
	IPFamilies string              `json:"ipFamilies"`

	// Ours.
	PortNames       map[string]string `json:"portNames,omitempty"`
	NodePorts       map[string]uint16 `json:"nodePorts,omitempty"`
	LoadBalancerIPs []netip.Addr      `json:"loadBalancerIPs,omitempty"`
	ExternalIPs     []netip.Addr      `json:"externalIPs,omitempty"`
	SourceRanges    []netip.Prefix    `json:"loadBalancerSourceRanges,omitempty"`
	Headless        bool              `json:"headless,omitempty"`
	Local           bool              `json:"externalTrafficPolicyLocal,omitempty"`
	InternalLocal   bool              `json:"internalTrafficPolicyLocal,omitempty"`
	Affinity        string            `json:"clientIPAffinity,omitempty"` // as 3h0m0s
}

// Endpoint is one workload behind a service.
type Endpoint struct {
	WorkloadUID string            `json:"workloadUid"` // empty: nobody of the mesh
	Service     string            `json:"service"`     // "NAMESPACE/HOSTNAME"
	Port        map[uint16]uint16 `json:"port"`        // target by port
	Status      string            `json:"status"`      // Healthy: others are not listed

	// Ours.
	Addresses []netip.Addr `json:"addresses"`
	Node      string       `json:"node,omitempty"`
	Leaving   bool         `json:"leaving,omitempty"` // it terminates and still serves
}

// Services are those of a mesh, with their endpoints by the pods of it.
func Services(services []workload.Service, pods workload.Workloads) []Service {
	uids := make(map[netip.Addr]string, len(pods))
	for _, p := range pods {
		for _, a := range p.Addrs {
			uids[a] = p.UID
		}
	}
	out := make([]Service, len(services))
	for i, s := range services {
		out[i] = service(s, uids)
	}
	return out
}

func service(s workload.Service, uids map[netip.Addr]string) Service {
	out := Service{
		Name: s.Name, Namespace: s.Namespace, Hostname: s.Hostname(), VIPs: []string{},
		Ports: map[string]uint16{}, Endpoints: map[string]Endpoint{}, IPFamilies: families(s.VIPs),
		LoadBalancerIPs: s.LoadBalancerIPs, ExternalIPs: s.ExternalIPs, SourceRanges: s.SourceRanges,
		Headless: s.Headless, Local: s.Local, InternalLocal: s.InternalLocal,
	}
	if s.Affinity > 0 {
		out.Affinity = s.Affinity.String()
	}
	for _, a := range s.VIPs {
		out.VIPs = append(out.VIPs, "/"+a.String())
	}
	for _, p := range s.Ports {
		out.add(p, uids)
	}
	return out
}

// add shows one port and the endpoints behind it.
func (s *Service) add(p workload.ServicePort, uids map[netip.Addr]string) {
	port := strconv.Itoa(int(p.Port))
	s.Ports[port] = target(p)
	if p.Name != "" {
		s.PortNames = put(s.PortNames, port, p.Name)
	}
	if p.NodePort != 0 {
		s.NodePorts = put(s.NodePorts, port, p.NodePort)
	}
	for _, e := range p.Endpoints {
		uid := uids[e.Addr.Addr()]
		key := uid
		if uid == "" {
			key = e.Addr.Addr().String()
		}
		shown, known := s.Endpoints[key]
		if !known {
			shown = Endpoint{WorkloadUID: uid, Status: healthy, Service: s.Namespace + "/" + s.Hostname, Port: map[uint16]uint16{}, Node: e.Node}
		}
		shown.Port[p.Port] = e.Addr.Port()
		shown.Leaving = shown.Leaving || e.Leaving
		if !slices.Contains(shown.Addresses, e.Addr.Addr()) {
			shown.Addresses = append(shown.Addresses, e.Addr.Addr())
		}
		s.Endpoints[key] = shown
	}
}

// target is the port that all endpoints have, or 0.
func target(p workload.ServicePort) (port uint16) {
	for _, e := range p.Endpoints {
		if port != 0 && port != e.Addr.Port() {
			return 0
		}
		port = e.Addr.Port()
	}
	return port
}

func families(addrs []netip.Addr) string {
	v4 := slices.ContainsFunc(addrs, netip.Addr.Is4)
	v6 := slices.ContainsFunc(addrs, netip.Addr.Is6)
	switch {
	case v4 && v6:
		return "Dual"
	case v6:
		return "IPv6Only"
	case v4:
		return "IPv4Only"
	}
	return ""
}

func put[V any](m map[string]V, key string, value V) map[string]V {
	if m == nil {
		m = map[string]V{}
	}
	m[key] = value
	return m
}

func nonNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}
