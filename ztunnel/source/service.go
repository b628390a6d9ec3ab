// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

type objectName struct{ namespace, name string }

// backend is one address behind a service port, before readiness is applied.
type backend struct {
	addr                        netip.AddrPort
	ready, serving, terminating bool
}

func services(objects Objects) []workload.Service {
	behind := map[objectName][]*discoveryv1.EndpointSlice{}
	for _, s := range objects.EndpointSlices {
		if name := s.Labels[discoveryv1.LabelServiceName]; name != "" {
			key := objectName{s.Namespace, name}
			behind[key] = append(behind[key], s)
		}
	}
	pods := map[string][]*corev1.Pod{}
	for _, pod := range objects.Pods {
		pods[pod.Namespace] = append(pods[pod.Namespace], pod)
	}
	var out []workload.Service
	for _, svc := range objects.Services {
		if svc.Spec.Type == corev1.ServiceTypeExternalName {
			continue
		}
		s := newService(svc)
		slices := behind[objectName{svc.Namespace, svc.Name}]
		for _, port := range svc.Spec.Ports {
			number, ok := portNumber(port.Port)
			if !ok || !isTCP(port.Protocol) {
				continue
			}
			var backends []backend
			if len(slices) == 0 && len(svc.Spec.Selector) > 0 {
				backends = fromPods(pods[svc.Namespace], svc.Spec.Selector, port)
			} else {
				backends = fromSlices(slices, port.Name)
			}
			s.Ports = append(s.Ports, workload.ServicePort{
				Name: port.Name, Port: number, NodePort: nodePort(svc, port),
				Endpoints: usable(backends, svc.Spec.PublishNotReadyAddresses),
			})
		}
		out = append(out, s)
	}
	return out
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

func newService(svc *corev1.Service) workload.Service {
	s := workload.Service{
		Namespace: svc.Namespace, Name: svc.Name, Created: svc.CreationTimestamp.Time,
		Headless: svc.Spec.ClusterIP == corev1.ClusterIPNone,
		Local:    svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if !s.Headless {
		s.VIPs = parseAddrs(append([]string{svc.Spec.ClusterIP}, svc.Spec.ClusterIPs...))
	}
	// The node would short-cut these, too, past us and in plaintext.
	s.LoadBalancerIPs = parseAddrs(svc.Spec.ExternalIPs)
	for _, ingress := range svc.Status.LoadBalancer.Ingress {
		// In mode Proxy the load balancer wants to see the connection itself.
		if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
			s.LoadBalancerIPs = append(s.LoadBalancerIPs, parseAddrs([]string{ingress.IP})...)
		}
	}
	return s
}

// fromSlices collects the backends of the service port of that name: slices
// repeat the name and carry the target port's number.
func fromSlices(behind []*discoveryv1.EndpointSlice, portName string) []backend {
	var out []backend
	for _, slice := range behind {
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		for _, port := range slice.Ports {
			if deref(port.Name, "") != portName || !isTCP(deref(port.Protocol, corev1.ProtocolTCP)) {
				continue
			}
			number, ok := portNumber(deref(port.Port, 0))
			if !ok {
				continue
			}
			for _, e := range slice.Endpoints {
				// A condition that is absent counts as its usual state.
				ready := deref(e.Conditions.Ready, true)
				b := backend{
					ready:       ready,
					serving:     deref(e.Conditions.Serving, ready),
					terminating: deref(e.Conditions.Terminating, false),
				}
				for _, addr := range parseAddrs(e.Addresses) {
					b.addr = netip.AddrPortFrom(addr, number)
					out = append(out, b)
				}
			}
		}
	}
	return out
}

// fromPods does what the endpoint slice controller would.
func fromPods(pods []*corev1.Pod, selector map[string]string, port corev1.ServicePort) []backend {
	var out []backend
	for _, pod := range pods {
		if terminated(pod) || !policy.Selector(selector).Matches(pod.Labels) {
			continue
		}
		number, ok := targetPort(pod, port)
		if !ok {
			continue
		}
		serving, terminating := podServes(pod), pod.DeletionTimestamp != nil
		for _, addr := range podAddrs(pod) {
			out = append(out, backend{
				addr:    netip.AddrPortFrom(addr, number),
				ready:   serving && !terminating,
				serving: serving, terminating: terminating,
			})
		}
	}
	return out
}

// usable applies readiness. If nothing is ready, those which are on their way
// out and still serve are better than nobody, as in kube-proxy; each family
// decides for itself, since a client has only one.
func usable(backends []backend, publishNotReady bool) []netip.AddrPort {
	var out []netip.AddrPort
	for _, v4 := range []bool{true, false} {
		var ready, leaving []netip.AddrPort
		for _, b := range backends {
			switch {
			case b.addr.Addr().Is4() != v4:
			case b.ready || publishNotReady:
				ready = append(ready, b.addr)
			case b.serving && b.terminating:
				leaving = append(leaving, b.addr)
			}
		}
		if len(ready) == 0 {
			ready = leaving
		}
		out = append(out, ready...)
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return slices.Compact(out) // an endpoint may move between slices and be in both
}

// targetPort resolves a service port on one pod; pods may give a name
// different numbers.
func targetPort(pod *corev1.Pod, port corev1.ServicePort) (uint16, bool) {
	if port.TargetPort.Type == intstr.String && port.TargetPort.StrVal != "" {
		number, ok := namedPorts(pod)[port.TargetPort.StrVal]
		return number, ok
	}
	return portNumber(cmp.Or(port.TargetPort.IntVal, port.Port))
}

func deref[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}
