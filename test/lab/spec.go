// SPDX-License-Identifier: Apache-2.0

package lab

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The parts of PodSpec and ServiceSpec that are Kubernetes's own are made by
// these functions, so that a story needs no Kubernetes package.

// ContainerPort is a port that a pod declares. The name may be empty.
func ContainerPort(name string, port uint16) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: int32(port), Protocol: corev1.ProtocolTCP}
}

// HTTPProbe asks for / on a port, by number or name.
func HTTPProbe(port string) *corev1.Probe {
	get := &corev1.HTTPGetAction{Path: "/", Port: intstr.Parse(port)}
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: get}}
}

// TCPProbe connects to a port, by number or name.
func TCPProbe(port string) *corev1.Probe {
	return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.Parse(port)}}}
}

// ServicePort is a port of a Service. target is a number, the name of a port of
// the pods, or empty for the same number.
func ServicePort(name string, port uint16, target string) corev1.ServicePort {
	p := corev1.ServicePort{Name: name, Port: int32(port), Protocol: corev1.ProtocolTCP}
	if target != "" {
		p.TargetPort = intstr.Parse(target)
	}
	return p
}
