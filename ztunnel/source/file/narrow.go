// SPDX-License-Identifier: Apache-2.0

package file

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	nodev1 "k8s.io/api/node/v1"

	"github.com/culvert-mesh/culvert/ztunnel/policy"
	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// narrows reports whether an object may be put in force at once: whatever else is in
// force, nobody leaves the mesh by it and nobody is let in who was not. old is nil if
// there was none. What it cannot tell widens.
func (s *Source) narrows(old, next object) bool {
	switch next := next.(type) {
	case *corev1.Namespace:
		var labels map[string]string
		if old, known := old.(*corev1.Namespace); known {
			labels = old.Labels
		}
		return s.staysIn(labels, next.Labels, old != nil) && s.selectedAlike(labels, next.Labels, old != nil)
	case *corev1.Pod:
		old, known := old.(*corev1.Pod)
		return !known || old.UID != next.UID || s.podNarrows(old, next)
	case *corev1.Node:
		old, known := old.(*corev1.Node)
		return !known || subset(nodeAddrs(old), nodeAddrs(next))
	case *corev1.Service:
		old, known := old.(*corev1.Service)
		return !known || serviceNarrows(old, next)
	case *discoveryv1.EndpointSlice, *corev1.ServiceAccount:
		return true
	case *nodev1.RuntimeClass:
		return false // it may say of pods that they cannot be steered
	case *source.PeerAuthentication:
		old, _ := old.(*source.PeerAuthentication)
		return peersNarrow(old, next)
	case *source.AuthorizationPolicy:
		old, _ := old.(*source.AuthorizationPolicy)
		return s.authorizationNarrows(old, next)
	case *source.NetworkPolicy:
		old, _ := old.(*source.NetworkPolicy)
		return s.networkNarrows(old, next)
	}
	return false
}

// staysIn compares labels; known: there were some, or none, before. Of a namespace that is
// new, pods are refused until it is known that they are outside.
func (s *Source) staysIn(old, next map[string]string, known bool) bool {
	if in, _ := source.Joins(next, s.build); in {
		return true
	}
	in, decided := source.Joins(old, s.build)
	_, nextDecided := source.Joins(next, s.build)
	return known && !in && (decided || !nextDecided)
}

func (s *Source) podNarrows(old, next *corev1.Pod) bool {
	return s.staysIn(old.Labels, next.Labels, true) && maps.Equal(plain(old.Labels), plain(next.Labels)) &&
		maps.Equal(used(old.Annotations), used(next.Annotations)) && old.Spec.HostNetwork == next.Spec.HostNetwork &&
		old.Spec.ServiceAccountName == next.Spec.ServiceAccountName && reflect.DeepEqual(old.Spec.RuntimeClassName, next.Spec.RuntimeClassName) &&
		subset(podTells(old), podTells(next))
}

// podTells returns what leads to a pod or to its node. An address or port that nobody has
// any more may be the world outside, which pods reach in plaintext.
func podTells(pod *corev1.Pod) []string {
	out := hostIPs(&pod.Status)
	if pod.Spec.NodeName != "" {
		out = append(out, "node "+pod.Spec.NodeName)
	}
	for _, addr := range podAddrs(pod) { // which one it is may change
		out = append(out, fmt.Sprint("an address of bits ", addr.BitLen()))
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		for _, p := range c.Ports {
			if p.HostPort != 0 {
				out = append(out, fmt.Sprint(p.HostIP, " ", p.HostPort, " to ", p.ContainerPort, " ", cmp.Or(p.Protocol, corev1.ProtocolTCP)))
			}
		}
	}
	return out
}

func hostIPs(s *corev1.PodStatus) []string {
	out := []string{s.HostIP}
	for _, ip := range s.HostIPs {
		out = append(out, ip.IP)
	}
	return out
}

func podIPs(s *corev1.PodStatus) []string {
	out := []string{s.PodIP}
	for _, ip := range s.PodIPs {
		out = append(out, ip.IP)
	}
	return out
}

// plain leaves out the labels by which a pod is in the mesh; the others select.
func plain(labels map[string]string) map[string]string {
	out := maps.Clone(labels)
	maps.DeleteFunc(out, func(key, _ string) bool { return key == source.MeshLabel || key == source.IstioLabel })
	return out
}

func used(annotations map[string]string) map[string]string {
	out := maps.Clone(annotations)
	maps.DeleteFunc(out, func(key, _ string) bool {
		return key == source.StatusAnnotation || key == source.FeaturesAnnotation || !source.UsesAnnotation(key)
	})
	return out
}

func nodeAddrs(n *corev1.Node) []string {
	out := append([]string{n.Spec.PodCIDR}, n.Spec.PodCIDRs...)
	for _, a := range n.Status.Addresses {
		out = append(out, a.Address)
	}
	return out
}

// serviceNarrows: an address that is a service's no more may be the world outside, which
// pods reach in plaintext.
func serviceNarrows(old, next *corev1.Service) bool {
	for _, of := range []func(*corev1.Service) []string{serviceAddrs, nodePorts} {
		if !subset(of(old), of(next)) {
			return false
		}
	}
	return old.Spec.Type == next.Spec.Type && slices.Equal(old.Spec.LoadBalancerSourceRanges, next.Spec.LoadBalancerSourceRanges)
}

func serviceAddrs(s *corev1.Service) []string {
	out := slices.Concat([]string{s.Spec.ClusterIP}, s.Spec.ClusterIPs, s.Spec.ExternalIPs)
	for _, i := range s.Status.LoadBalancer.Ingress {
		if i.IPMode == nil || *i.IPMode == corev1.LoadBalancerIPModeVIP {
			out = append(out, i.IP)
		}
	}
	return out
}

func nodePorts(s *corev1.Service) (out []string) {
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, string(p.Protocol)+string(rune(p.NodePort)))
		}
	}
	return out
}

func subset(a, of []string) bool {
	return !slices.ContainsFunc(a, func(s string) bool { return s != "" && !slices.Contains(of, s) })
}

// peersNarrow: STRICT everywhere, or at each port STRICT or what it was.
func peersNarrow(old, next *source.PeerAuthentication) bool {
	after, err := next.Policy()
	if err != nil {
		return false
	}
	var before policy.PeerAuthentication
	known := old != nil
	if known {
		if before, err = old.Policy(); err != nil || !reflect.DeepEqual(before.Object, after.Object) {
			return false
		}
	}
	at := func(p policy.PeerAuthentication, port uint16) policy.Mode {
		if mode := p.Ports[port]; mode != policy.Unset {
			return mode
		}
		return p.Mode
	}
	ports := slices.Concat(slices.Collect(maps.Keys(before.Ports)), slices.Collect(maps.Keys(after.Ports)), []uint16{0})
	return !slices.ContainsFunc(ports, func(port uint16) bool {
		return at(after, port) != policy.Strict && (!known || at(after, port) != at(before, port))
	})
}

// lets and refuses are what an action does with those whom its rules match; AUDIT and
// CUSTOM do nothing.
func lets(action string) bool    { return action == "" || action == "ALLOW" }
func refuses(action string) bool { return action == "DENY" }

// authorizationNarrows holds for what Istio's objects mean at layer 4: what a rule allows
// is let in if one policy allows it, so that fewer rules narrow, as more that refuse do.
func (s *Source) authorizationNarrows(old, next *source.AuthorizationPolicy) bool {
	after := next.Spec
	fewer := lets(after.Action)
	if !fewer && !refuses(after.Action) || next.Annotations[source.DryRun] != "" {
		return false
	}
	if old == nil {
		return !fewer || len(after.Rules) == 0 || !s.allowsBeside(next)
	}
	before := old.Spec
	if fewer != lets(before.Action) || old.Annotations[source.DryRun] != "" ||
		!reflect.DeepEqual(before.Selector, after.Selector) || before.TargetRef != nil || after.TargetRef != nil ||
		len(before.TargetRefs) > 0 || len(after.TargetRefs) > 0 {
		return false
	}
	if fewer {
		return allAmong(after.Rules, before.Rules)
	}
	return before.Action == after.Action && allAmong(before.Rules, after.Rules)
}

// allowsBeside reports whether another policy may let in to the same workloads already:
// beside it, one more lets in more. The first lets in less than none did.
func (s *Source) allowsBeside(p *source.AuthorizationPolicy) bool {
	root := s.rootNamespace()
	for _, e := range s.force.entries {
		other, is := e.object.(*source.AuthorizationPolicy)
		if is && !refuses(other.Spec.Action) &&
			(other.Namespace == p.Namespace || other.Namespace == root || p.Namespace == root) {
			return true
		}
	}
	return false
}

func allAmong(rules, of []*source.Rule) bool {
	return !slices.ContainsFunc(rules, func(r *source.Rule) bool {
		return !slices.ContainsFunc(of, func(o *source.Rule) bool { return reflect.DeepEqual(r, o) })
	})
}
