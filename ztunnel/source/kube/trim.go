// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/culvert-mesh/culvert/ztunnel/source"
)

// trimmed understands an object of Kubernetes' own.
func trimmed(o runtime.Object) (understood, error) {
	object := trim(o.(source.Object))
	return understood{Object: object, strange: cmp.Or(strangeLabel(object), source.StrangeMode(object))}, nil
}

// strangeLabel finds a value that means nothing on a namespace or pod which
// somebody wanted to be in the mesh or out of it.
func strangeLabel(o source.Object) string {
	switch o.(type) {
	case *corev1.Namespace, *corev1.Pod:
	default:
		return ""
	}
	v, strange := source.StrangeLabel(o.GetLabels())
	if !strange {
		return ""
	}
	return fmt.Sprintf("metadata.labels[%s]: %q means nothing: not %s or %s", source.MeshLabel, v, source.MeshEnabled, source.MeshDisabled)
}

// trim takes off what neither a Builder nor Own looks at. It writes to o, which nobody else has.
func trim(o source.Object) source.Object {
	o.SetManagedFields(nil)
	switch o := o.(type) {
	case *corev1.Pod:
		trimPod(o)
	case *corev1.Namespace:
		keepAnnotation(o, source.CertificateTTL)
	case *corev1.ServiceAccount:
		keepAnnotation(o, source.CertificateTTL)
		o.Labels, o.Secrets, o.ImagePullSecrets = nil, nil, nil
	case *corev1.Node:
		o.Annotations = nil
		maps.DeleteFunc(o.Labels, func(key, _ string) bool { return key != corev1.LabelTopologyZone && key != corev1.LabelTopologyRegion })
		o.Spec = corev1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs, Taints: o.Spec.Taints}
		o.Status = corev1.NodeStatus{Addresses: o.Status.Addresses}
	case *discoveryv1.EndpointSlice:
		o.Annotations, o.OwnerReferences = nil, nil
		for i := range o.Endpoints {
			o.Endpoints[i].TargetRef = nil
		}
	default:
		o.SetAnnotations(nil)
	}
	return o
}

func keepAnnotation(o source.Object, kept string) {
	all := o.GetAnnotations()
	maps.DeleteFunc(all, func(key, _ string) bool { return key != kept })
	o.SetAnnotations(all)
}

func trimPod(pod *corev1.Pod) {
	maps.DeleteFunc(pod.Annotations, func(key, _ string) bool { return !source.UsesAnnotation(key) })
	spec, status := &pod.Spec, &pod.Status
	pod.Spec = corev1.PodSpec{
		Containers: trimContainers(spec.Containers), InitContainers: trimContainers(spec.InitContainers),
		NodeName: spec.NodeName, ServiceAccountName: spec.ServiceAccountName, HostNetwork: spec.HostNetwork, RuntimeClassName: spec.RuntimeClassName,
	}
	conditions := status.Conditions[:0]
	for _, c := range status.Conditions {
		if c.Type == corev1.PodReady {
			conditions = append(conditions, corev1.PodCondition{Type: c.Type, Status: c.Status})
		}
	}
	pod.Status = corev1.PodStatus{
		Phase: status.Phase, Conditions: conditions, HostIP: status.HostIP, HostIPs: status.HostIPs, PodIP: status.PodIP, PodIPs: status.PodIPs,
	}
}

func trimContainers(containers []corev1.Container) []corev1.Container {
	for i, c := range containers {
		containers[i] = corev1.Container{
			Ports: c.Ports, LivenessProbe: c.LivenessProbe, ReadinessProbe: c.ReadinessProbe, StartupProbe: c.StartupProbe,
			Lifecycle: c.Lifecycle, RestartPolicy: c.RestartPolicy,
		}
	}
	return containers
}
