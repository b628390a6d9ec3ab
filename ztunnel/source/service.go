// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// backend is one address behind a service port, before readiness is applied.
type backend struct {
	workload.Endpoint
	ready, serving, terminating bool
}

// newService returns a service with its ports; backends says who is behind one.
func newService(svc *corev1.Service, backends func(corev1.ServicePort) []backend) workload.Service {
	s := addresses(svc)
	for _, port := range svc.Spec.Ports {
		number, ok := portNumber(port.Port)
		if !ok || !isTCP(port.Protocol) {
			continue
		}
		s.Ports = append(s.Ports, workload.ServicePort{
			Name: port.Name, Port: number, NodePort: nodePort(svc, port),
			Endpoints: usable(backends(port), svc.Spec.PublishNotReadyAddresses),
		})
	}
	return s
}

// nodePort is 0 where a type does not have one, whatever is left in the object.
func nodePort(svc *corev1.Service, port corev1.ServicePort) uint16 {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		number, _ := portNumber(port.NodePort)
		return number
	}
	return 0
}

// affinity is 0 unless clients stay with their endpoints.
func affinity(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil {
		seconds = deref(c.ClientIP.TimeoutSeconds, seconds)
	}
	return time.Duration(seconds) * time.Second
}

func addresses(svc *corev1.Service) workload.Service {
	s := workload.Service{
		Namespace: svc.Namespace, Name: svc.Name, Created: svc.CreationTimestamp.Time,
		Headless: svc.Spec.ClusterIP == corev1.ClusterIPNone,
		Local:    svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,

		InternalLocal: deref(svc.Spec.InternalTrafficPolicy, "") == corev1.ServiceInternalTrafficPolicyLocal,
		Affinity:      affinity(svc),
	}
	if !s.Headless {
		s.VIPs = parseAddrs(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	}
	// The node would short-cut these, too, past us and in plaintext.
	s.ExternalIPs = parseAddrs(svc.Spec.ExternalIPs)
	s.SourceRanges = parsePrefixes(svc.Spec.LoadBalancerSourceRanges)
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		// In mode Proxy the load balancer wants to see the connection itself.
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, parseAddrs([]string{ingress.IP})...)
		}
	}
	return s
}

// distribution is the hints that the endpoint slice controller would write for an
// endpoint of a node and its zone, by trafficDistribution.
func distribution(svc *corev1.Service, node, zone string) *workload.Hints {
	h := &workload.Hints{}
	switch deref(svc.Spec.TrafficDistribution, "") {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if node != "" {
			h.Nodes = []string{node}
		}
	case corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferClose:
	default:
		return nil
	}
	if zone != "" {
		h.Zones = []string{zone}
	}
	return h
}

// fromPods does what the endpoint slice controller would, among the pods of the
// service's namespace; where are the nodes.
func (p *pods) fromPods(svc *corev1.Service, port corev1.ServicePort, where localities) []backend {
	var out []backend
	for _, at := range p.byName[svc.Namespace] {
		w, e := p.workloads[at], p.entries[at]
		if w.Terminated || !policy.Selector(svc.Spec.Selector).Matches(w.Labels) {
			continue
		}
		number, ok := TargetPort(w, port)
		if !ok {
			continue
		}
		for _, addr := range w.Addrs {
			out = append(out, backend{
				Endpoint: workload.Endpoint{Addr: netip.AddrPortFrom(addr, number), Node: w.Node, Hints: distribution(svc, w.Node, where[w.Node].Zone)},
				ready:    w.Ready, serving: e.serving, terminating: e.terminating,
			})
		}
	}
	return out
}

// usable leaves out those that never get connections. Which of the others do
// depends on who else is there, and on the node: that is for the Registry.
func usable(backends []backend, publishNotReady bool) []workload.Endpoint {
	out := make([]workload.Endpoint, 0, len(backends))
	for _, b := range backends {
		b.Leaving = !b.ready && !publishNotReady
		if !b.Leaving || b.serving && b.terminating {
			out = append(out, b.Endpoint)
		}
	}
	// An endpoint may move between slices and be in both: it is ready if one says so.
	slices.SortFunc(out, func(a, b workload.Endpoint) int {
		if c := a.Addr.Compare(b.Addr); c != 0 || a.Leaving == b.Leaving {
			return c
		}
		if b.Leaving {
			return -1
		}
		return 1
	})
	return slices.CompactFunc(out, func(a, b workload.Endpoint) bool { return a.Addr == b.Addr })
}

// TargetPort resolves a service port on one pod; pods may give a name
// different numbers.
func TargetPort(w *workload.Packed, port corev1.ServicePort) (uint16, bool) {
	if port.TargetPort.Type == intstr.String && port.TargetPort.StrVal != "" {
		i := slices.IndexFunc(w.Ports, func(p workload.NamedPort) bool { return p.Name == port.TargetPort.StrVal })
		if i < 0 {
			return 0, false
		}
		return w.Ports[i].Port, true
	}
	return portNumber(cmp.Or(port.TargetPort.IntVal, port.Port))
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
