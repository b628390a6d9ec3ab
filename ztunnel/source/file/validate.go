// SPDX-License-Identifier: Apache-2.0

package file

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// problems collects what is wrong with one object. There is no API server
// before us that would have refused it, so what we go by is checked here.
type problems []error

func (p *problems) add(path, format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %s", path, fmt.Sprintf(format, args...)))
}

func validate(o object) []error {
	var p problems
	p.metadata(o)
	switch o := o.(type) {
	case *corev1.Node:
		p.node(o)
	case *corev1.Pod:
		p.pod(o)
	case *corev1.Service:
		p.service(o)
	case *discoveryv1.EndpointSlice:
		p.endpointSlice(o)
	case *source.PeerAuthentication:
		_, err := o.Policy()
		p.join(err)
	case *source.AuthorizationPolicy:
		p.join(o.Check())
	case *source.NetworkPolicy:
		p.join(o.Check())
	}
	return p
}

// join takes the parts of a joined error, which begin with their paths.
func (p *problems) join(err error) {
	var joined interface{ Unwrap() []error }
	if errors.As(err, &joined) {
		*p = append(*p, joined.Unwrap()...)
	} else if err != nil {
		*p = append(*p, err)
	}
}

func (p *problems) metadata(o object) {
	check := validation.IsDNS1123Subdomain
	switch o.(type) {
	case *corev1.Namespace, *corev1.Service:
		check = validation.IsDNS1123Label
	}
	p.name("metadata.name", o.GetName(), check)
	switch o.(type) {
	case *corev1.Namespace, *corev1.Node, *nodev1.RuntimeClass:
	default:
		p.name("metadata.namespace", o.GetNamespace(), validation.IsDNS1123Label)
	}
}

func (p *problems) node(n *corev1.Node) {
	for i, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP {
			p.addr(fmt.Sprintf("status.addresses[%d].address", i), a.Address)
		}
	}
}

func (p *problems) name(path, name string, check func(string) []string) {
	if name == "" {
		p.add(path, "required")
	} else if why := check(name); len(why) > 0 {
		p.add(path, "%q: %s", name, why[0])
	}
}

func (p *problems) addr(path, text string) netip.Addr {
	addr, err := netip.ParseAddr(text)
	if err != nil || addr.Zone() != "" {
		p.add(path, "%q: not an IP address", text)
	}
	return addr
}

// port accepts 1 to 65535.
func (p *problems) port(path string, n int32) {
	if n < 1 || n > 65535 {
		p.add(path, "%d: not a port from 1 to 65535", n)
	}
}

func (p *problems) protocol(path string, proto corev1.Protocol) {
	switch proto {
	case "", corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP:
	default:
		p.add(path, "%q: not TCP, UDP or SCTP", proto)
	}
}

func (p *problems) service(s *corev1.Service) {
	switch s.Spec.Type {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName:
	default:
		p.add("spec.type", "%q: not ClusterIP, NodePort, LoadBalancer or ExternalName", s.Spec.Type)
	}
	if ip := s.Spec.ClusterIP; ip != "" && ip != corev1.ClusterIPNone {
		p.addr("spec.clusterIP", ip)
	}
	for i, ip := range s.Spec.ClusterIPs {
		if ip != corev1.ClusterIPNone {
			p.addr(fmt.Sprintf("spec.clusterIPs[%d]", i), ip)
		}
	}
	for i, ip := range s.Spec.ExternalIPs {
		p.addr(fmt.Sprintf("spec.externalIPs[%d]", i), ip)
	}
	for i, cidr := range s.Spec.LoadBalancerSourceRanges {
		if _, err := netip.ParsePrefix(strings.TrimSpace(cidr)); err != nil {
			p.add(fmt.Sprintf("spec.loadBalancerSourceRanges[%d]", i), "%q: not a CIDR", cidr)
		}
	}
	switch s.Spec.ExternalTrafficPolicy {
	case "", corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal:
	default:
		p.add("spec.externalTrafficPolicy", "%q: not Cluster or Local", s.Spec.ExternalTrafficPolicy)
	}
	p.traffic(s)
	for i, ingress := range s.Status.LoadBalancer.Ingress {
		if ingress.IP != "" {
			p.addr(fmt.Sprintf("status.loadBalancer.ingress[%d].ip", i), ingress.IP)
		}
	}
	p.servicePorts(s.Spec.Ports)
}

// maxAffinitySeconds is what Kubernetes allows: a day.
const maxAffinitySeconds = 86400

// traffic checks how connections are spread: a word that is misspelt would change
// nothing and say nothing.
func (p *problems) traffic(s *corev1.Service) {
	if v := s.Spec.InternalTrafficPolicy; v != nil && *v != corev1.ServiceInternalTrafficPolicyCluster && *v != corev1.ServiceInternalTrafficPolicyLocal {
		p.add("spec.internalTrafficPolicy", "%q: not Cluster or Local", *v)
	}
	distributions := []string{
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode,
	}
	if v := s.Spec.TrafficDistribution; v != nil && !slices.Contains(distributions, *v) {
		p.add("spec.trafficDistribution", "%q: not one of %s", *v, strings.Join(distributions, ", "))
	}
	switch s.Spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone, corev1.ServiceAffinityClientIP:
	default:
		p.add("spec.sessionAffinity", "%q: not None or ClientIP", s.Spec.SessionAffinity)
	}
	if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		if seconds := *c.ClientIP.TimeoutSeconds; seconds < 1 || seconds > maxAffinitySeconds {
			p.add("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "%d: not 1 to %d", seconds, maxAffinitySeconds)
		}
	}
}

func (p *problems) servicePorts(ports []corev1.ServicePort) {
	type number struct {
		proto corev1.Protocol
		port  int32
	}
	names, numbers := map[string]bool{}, map[number]bool{}
	for i, port := range ports {
		path := fmt.Sprintf("spec.ports[%d]", i)
		p.protocol(path+".protocol", port.Protocol)
		p.port(path+".port", port.Port)
		if port.NodePort != 0 {
			p.port(path+".nodePort", port.NodePort)
		}
		switch t := port.TargetPort; {
		case t.Type == intstr.Int && t.IntVal != 0:
			p.port(path+".targetPort", t.IntVal)
		case t.Type == intstr.String:
			p.name(path+".targetPort", t.StrVal, validation.IsValidPortName)
		}
		// Slices refer to ports by name, so it must tell them apart.
		if port.Name == "" && len(ports) > 1 {
			p.add(path+".name", "required with more than one port")
		} else if names[port.Name] {
			p.add(path+".name", "%q: twice", port.Name)
		}
		n := number{port.Protocol, port.Port}
		if n.proto == "" {
			n.proto = corev1.ProtocolTCP
		}
		if numbers[n] {
			p.add(path+".port", "%d: twice", port.Port)
		}
		names[port.Name], numbers[n] = true, true
	}
}

func (p *problems) endpointSlice(s *discoveryv1.EndpointSlice) {
	types := []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN}
	if !slices.Contains(types, s.AddressType) {
		p.add("addressType", "%q: not IPv4, IPv6 or FQDN", s.AddressType)
		return
	}
	for i, e := range s.Endpoints {
		for j, text := range e.Addresses {
			if s.AddressType == discoveryv1.AddressTypeFQDN {
				continue
			}
			path := fmt.Sprintf("endpoints[%d].addresses[%d]", i, j)
			if addr := p.addr(path, text); addr.IsValid() && addr.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
				p.add(path, "%q: not %s", text, s.AddressType)
			}
		}
	}
	for i, port := range s.Ports {
		path := fmt.Sprintf("ports[%d]", i)
		if port.Protocol != nil {
			p.protocol(path+".protocol", *port.Protocol)
		}
		if port.Port != nil {
			p.port(path+".port", *port.Port)
		}
	}
}
