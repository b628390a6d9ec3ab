// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// ServiceSpec says what a Service is like.
type ServiceSpec struct {
	Namespace, Name string               // required
	Selector        map[string]string    // required
	Ports           []corev1.ServicePort // required; Protocol TCP
	Headless        bool                 // it has addresses of its own
	NodePorts       bool                 // Ports have them; ClusterIP
	Local           bool                 // node ports lead to pods of their node only
}

// Service is a Service of the lab.
type Service struct {
	Namespace, Name string
	IP4, IP6        netip.Addr // invalid if headless
}

// Service creates a Service. The lab is its endpoint controller.
func (l *Lab) Service(spec ServiceSpec) (Service, error) {
	c := l.cluster
	c.mu.Lock()
	defer c.mu.Unlock()
	dual := corev1.IPFamilyPolicyRequireDualStack
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: metav1.ObjectMeta{Namespace: spec.Namespace, Name: spec.Name},
		Spec: corev1.ServiceSpec{
			Selector: spec.Selector, Ports: spec.Ports,
			Type: corev1.ServiceTypeClusterIP, ClusterIP: corev1.ClusterIPNone,
			IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, IPFamilyPolicy: &dual,
		},
	}
	if spec.NodePorts {
		s.Spec.Type = corev1.ServiceTypeNodePort
	}
	if spec.Local {
		s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	}
	made := Service{Namespace: spec.Namespace, Name: spec.Name}
	if !spec.Headless {
		c.vips++
		made.IP4, made.IP6 = host(services4, c.vips).Addr(), host(services6, c.vips).Addr()
		s.Spec.ClusterIP = made.IP4.String()
		s.Spec.ClusterIPs = []string{made.IP4.String(), made.IP6.String()}
	}
	c.services = append(c.services, s)
	return made, errors.Join(c.put(s), c.endpoints(s))
}

// removeService removes a Service with its EndpointSlices. c.mu is held.
func (c *cluster) removeService(namespace, name string) error {
	i := slices.IndexFunc(c.services, func(s *corev1.Service) bool {
		return s.Namespace == namespace && s.Name == name
	})
	if i < 0 {
		return fmt.Errorf("no service %s/%s", namespace, name)
	}
	err := c.replaceSlices(c.services[i], nil)
	c.services = slices.Delete(c.services, i, i+1)
	return errors.Join(err, c.remove(objectFile("Service", namespace, name)))
}

// reconcile brings the endpoints of all services up to date. c.mu is held.
func (c *cluster) reconcile(namespace string) error {
	var errs []error
	for _, s := range c.services {
		if s.Namespace == namespace {
			errs = append(errs, c.endpoints(s))
		}
	}
	return errors.Join(errs...)
}

// endpoints writes the EndpointSlices of s: one per family and set of resolved
// ports, as Kubernetes does, since a named port may differ from pod to pod.
func (c *cluster) endpoints(s *corev1.Service) error {
	slicesOf := make(map[string]*discoveryv1.EndpointSlice)
	selector := labels.SelectorFromSet(s.Spec.Selector)
	for _, uid := range slices.Sorted(maps.Keys(c.pods)) {
		pod := c.pods[uid]
		if pod.Namespace != s.Namespace || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		for _, ip := range pod.Status.PodIPs {
			slice := newSlice(s, pod, ip.IP)
			if known, ok := slicesOf[slice.Name]; ok {
				slice = known
			}
			slice.Endpoints = append(slice.Endpoints, endpoint(pod, ip.IP))
			slicesOf[slice.Name] = slice
		}
	}
	return c.replaceSlices(s, slicesOf)
}

func (c *cluster) replaceSlices(s *corev1.Service, now map[string]*discoveryv1.EndpointSlice) error {
	var errs []error
	for _, slice := range now {
		errs = append(errs, c.put(slice))
	}
	of := strings.TrimSuffix(objectFile("EndpointSlice", s.Namespace, s.Name), "yaml")
	for name := range c.objects {
		slice, ok := strings.CutPrefix(name, of)
		slice = s.Name + "." + strings.TrimSuffix(slice, ".yaml")
		if ok && now[slice] == nil {
			errs = append(errs, c.remove(name))
		}
	}
	return errors.Join(errs...)
}

func newSlice(s *corev1.Service, pod *corev1.Pod, ip string) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if strings.Contains(ip, ":") {
		family = discoveryv1.AddressTypeIPv6
	}
	name := s.Name + "." + strings.ToLower(string(family))
	var ports []discoveryv1.EndpointPort
	for _, p := range s.Spec.Ports {
		port := targetPort(p, pod)
		if port == 0 {
			continue
		}
		tcp := corev1.ProtocolTCP
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &port, Protocol: &tcp})
		name += fmt.Sprintf("-%d", port)
	}
	return &discoveryv1.EndpointSlice{
		TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: name,
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name},
		},
		AddressType: family, Ports: ports,
	}
}

func targetPort(p corev1.ServicePort, pod *corev1.Pod) int32 {
	if name := p.TargetPort.StrVal; name != "" {
		for _, container := range pod.Spec.Containers {
			for _, port := range container.Ports {
				if port.Name == name {
					return port.ContainerPort
				}
			}
		}
		return 0
	}
	if p.TargetPort.IntVal != 0 {
		return p.TargetPort.IntVal
	}
	return p.Port
}

func endpoint(pod *corev1.Pod, ip string) discoveryv1.Endpoint {
	ready := slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
	return discoveryv1.Endpoint{
		Addresses:  []string{ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		NodeName:   &pod.Spec.NodeName,
		TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
}
