// SPDX-License-Identifier: Apache-2.0

package file

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
)

func (p *problems) pod(pod *corev1.Pod) {
	if pod.UID == "" {
		// The CNI plugin names pods by it; without, this one could never be enrolled.
		p.add("metadata.uid", "required")
	}
	if sa := pod.Spec.ServiceAccountName; sa != "" {
		p.name("spec.serviceAccountName", sa, validation.IsDNS1123Subdomain)
	}
	if len(pod.Spec.Containers) == 0 {
		p.add("spec.containers", "required")
	}
	for i := range pod.Spec.Containers {
		p.container(fmt.Sprintf("spec.containers[%d]", i), &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		p.container(fmt.Sprintf("spec.initContainers[%d]", i), &pod.Spec.InitContainers[i])
	}
	p.podStatus(&pod.Status)
}

func (p *problems) podStatus(s *corev1.PodStatus) {
	switch s.Phase {
	case "", corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown:
	default:
		p.add("status.phase", "%q: not Pending, Running, Succeeded, Failed or Unknown", s.Phase)
	}
	if s.PodIP != "" {
		p.addr("status.podIP", s.PodIP)
	}
	for i, ip := range s.PodIPs {
		p.addr(fmt.Sprintf("status.podIPs[%d].ip", i), ip.IP)
	}
	if s.HostIP != "" {
		p.addr("status.hostIP", s.HostIP)
	}
	for i, ip := range s.HostIPs {
		p.addr(fmt.Sprintf("status.hostIPs[%d].ip", i), ip.IP)
	}
	for i, c := range s.Conditions {
		switch c.Status {
		case corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown:
		default:
			p.add(fmt.Sprintf("status.conditions[%d].status", i), "%q: not True, False or Unknown", c.Status)
		}
	}
}

func (p *problems) container(path string, c *corev1.Container) {
	names := map[string]bool{}
	for i, port := range c.Ports {
		at := fmt.Sprintf("%s.ports[%d]", path, i)
		p.port(at+".containerPort", port.ContainerPort)
		p.protocol(at+".protocol", port.Protocol)
		if port.HostPort != 0 {
			p.port(at+".hostPort", port.HostPort)
		}
		if port.HostIP != "" {
			p.addr(at+".hostIP", port.HostIP)
		}
		if port.Name == "" {
			continue
		}
		p.name(at+".name", port.Name, validation.IsValidPortName)
		if names[port.Name] {
			p.add(at+".name", "%q: twice", port.Name)
		}
		names[port.Name] = true
	}
	p.probe(path+".livenessProbe", c.LivenessProbe, names)
	p.probe(path+".readinessProbe", c.ReadinessProbe, names)
	p.probe(path+".startupProbe", c.StartupProbe, names)
	if c.Lifecycle != nil {
		p.handler(path+".lifecycle.postStart", c.Lifecycle.PostStart, names)
		p.handler(path+".lifecycle.preStop", c.Lifecycle.PreStop, names)
	}
}

func (p *problems) probe(path string, probe *corev1.Probe, names map[string]bool) {
	if probe == nil {
		return
	}
	p.handler(path, &corev1.LifecycleHandler{HTTPGet: probe.HTTPGet, TCPSocket: probe.TCPSocket}, names)
	if probe.GRPC != nil {
		p.port(path+".grpc.port", probe.GRPC.Port)
	}
}

func (p *problems) handler(path string, h *corev1.LifecycleHandler, names map[string]bool) {
	if h == nil {
		return
	}
	if h.HTTPGet != nil {
		p.probePort(path+".httpGet.port", h.HTTPGet.Port, names)
	}
	if h.TCPSocket != nil {
		p.probePort(path+".tcpSocket.port", h.TCPSocket.Port, names)
	}
}

// probePort is a number or the name of a port of the same container. A name
// that is none would leave the probe without its exemption, so that the kubelet
// is refused under STRICT and the pod restarts for ever.
func (p *problems) probePort(path string, port intstr.IntOrString, names map[string]bool) {
	if port.Type == intstr.Int {
		p.port(path, port.IntVal)
		return
	}
	if !names[port.StrVal] && !isPortNumber(port.StrVal) {
		p.add(path, "%q: no port of this container has that name", port.StrVal)
	}
}

func isPortNumber(s string) bool {
	n := intstr.Parse(s)
	return n.Type == intstr.Int && n.IntVal > 0 && n.IntVal < 1<<16
}
