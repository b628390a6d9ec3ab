// SPDX-License-Identifier: Apache-2.0

package source

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// probes are what the kubelet connects to for the pod: ports of the pod, which
// has these addresses, and whatever else its probes name.
func probes(pod *corev1.Pod, own []netip.Addr) (ports []uint16, foreign []workload.ForeignProbe) {
	for _, c := range longRunning(pod) {
		for _, target := range probeTargets(c) {
			port, ok := containerPort(c, target.port)
			addr, _ := netip.ParseAddr(target.host)
			addr = addr.Unmap()
			probe := workload.ForeignProbe{Host: target.host, Addr: addr, Port: port}
			switch {
			case !ok || target.host == "localhost" || addr.IsLoopback():
				// It is nobody's, or the node's own: no pod's.
			case target.host == "" || slices.Contains(own, addr):
				if !slices.Contains(ports, port) {
					ports = append(ports, port)
				}
			case !slices.Contains(foreign, probe):
				foreign = append(foreign, probe)
			}
		}
	}
	slices.Sort(ports)
	return ports, foreign
}

// probeTarget is where a probe or lifecycle handler goes. An empty host is the
// pod itself.
type probeTarget struct {
	host string
	port intstr.IntOrString
}

func probeTargets(c *corev1.Container) []probeTarget {
	var out []probeTarget
	add := func(h *corev1.HTTPGetAction, t *corev1.TCPSocketAction) {
		if h != nil {
			out = append(out, probeTarget{h.Host, h.Port})
		}
		if t != nil {
			out = append(out, probeTarget{t.Host, t.Port})
		}
	}
	for _, probe := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil {
			continue
		}
		add(probe.HTTPGet, probe.TCPSocket)
		if probe.GRPC != nil { // which has no host
			out = append(out, probeTarget{port: intstr.FromInt32(probe.GRPC.Port)})
		}
	}
	if c.Lifecycle == nil {
		return out
	}
	for _, handler := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
		if handler != nil {
			add(handler.HTTPGet, handler.TCPSocket)
		}
	}
	return out
}
