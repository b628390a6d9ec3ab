// SPDX-License-Identifier: Apache-2.0

package source

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The labels which put a namespace or a pod into the mesh.
const (
	MeshLabel    = "culvert.dev/mesh" // enabled, disabled
	MeshEnabled  = "enabled"
	MeshDisabled = "disabled"
	IstioLabel   = "istio.io/dataplane-mode" // ambient, none
	istioAmbient = "ambient"
	istioNone    = "none"
	mayForward   = "culvert.dev/may-forward" // annotation: "true": strangers may reach what the pod forwards to
	istioSidecar = "sidecar.istio.io/status" // annotation: it has a proxy of its own
	// StatusAnnotation tells people how a pod is. It is written by its node's ztunnel, but
	// whoever may write to pods could have: it decides nothing.
	StatusAnnotation = "culvert.dev/status"
	// FeaturesAnnotation is a policy.Claim that a ztunnel makes on its own pod. Whoever may
	// write to that pod could have: it decides only what the status of policies says.
	FeaturesAnnotation = "culvert.dev/policy-features"
	mirrorPod          = corev1.MirrorPodAnnotationKey
	staticUID          = "kubernetes.io/config.hash" // annotation of a mirror pod: the UID by which the kubelet knows it
	defaultSA          = "default"
	latestVersion      = "latest"
)

// UsesAnnotation reports whether that annotation of a pod means something here.
func UsesAnnotation(key string) bool {
	switch key {
	case mayForward, istioSidecar, mirrorPod, staticUID, StatusAnnotation, FeaturesAnnotation:
		return true
	}
	return false
}

// newPod returns what a pod is by itself; join says whether it is in the mesh.
func newPod(pod *corev1.Pod, o Options) (podEntry, workload.Workload, error) {
	sa := cmp.Or(pod.Spec.ServiceAccountName, defaultSA)
	id, err := workload.Identity(o.TrustDomain, pod.Namespace, sa)
	if err != nil {
		return podEntry{}, workload.Workload{}, err
	}
	uid, static := KubeletUID(pod)
	e := podEntry{place: newPlace(pod), serving: podServes(pod), terminating: pod.DeletionTimestamp != nil}
	_, e.sidecar = pod.Annotations[istioSidecar]
	w := workload.Workload{
		UID:            uid,
		Namespace:      id.Path()[len("/ns/"):][:len(pod.Namespace)], // one piece of memory for all three
		Name:           pod.Name,
		Node:           e.place.Value().node,
		Created:        pod.CreationTimestamp.Time,
		ServiceAccount: id.Path()[len(id.Path())-len(sa):],
		ID:             id,
		Addrs:          podAddrs(pod),
		Labels:         workload.NewLabels(pod.Labels),
		HostNetwork:    pod.Spec.HostNetwork,
		Static:         static,
		Ready:          e.serving && !e.terminating,
		Terminated:     terminated(pod),
		Daemon:         ofDaemonSet(pod),
		MayForward:     pod.Annotations[mayForward] == "true",
		Ports:          namedPorts(pod),
		HostPorts:      hostPorts(pod),
		Declared:       declaredPorts(pod),
		Owner:          owner(pod),
	}
	w.ProbePorts, w.ForeignProbes = probes(pod, w.Addrs)
	w.CanonicalName = firstLabel(w.Labels, w.Owner, "service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
	if w.Owner == w.CanonicalName {
		w.Owner = w.CanonicalName // one piece of memory, which is that of the labels
	}
	w.CanonicalRevision = firstLabel(w.Labels, latestVersion, "service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
	return e, w, nil
}

// KubeletUID is the UID by which the kubelet and the runtime know a pod. A
// static pod's is made from its file: the object in the API only mirrors it, has
// a UID of its own, and another one when it is made anew.
func KubeletUID(pod *corev1.Pod) (uid string, static bool) {
	_, mirror := pod.Annotations[mirrorPod]
	if uid := pod.Annotations[staticUID]; mirror && uid != "" {
		return uid, true
	}
	return string(pod.UID), false
}

// meshed decides by labels: what the pod says counts before what its namespace
// says, and on the same object our label before Istio's. A value that neither
// defines says nothing; decided reports whether any label said something.
func meshed(namespace, pod map[string]string, o Options) (in, decided bool) {
	for _, labels := range []map[string]string{pod, namespace} {
		switch labels[MeshLabel] {
		case MeshEnabled:
			return true, true
		case MeshDisabled:
			return false, true
		}
		if o.IgnoreIstioLabels {
			continue
		}
		switch labels[IstioLabel] {
		case istioAmbient:
			return true, true
		case istioNone:
			return false, true
		}
	}
	return false, false
}

// Joins says whether labels, of a pod or of a namespace, put it into the mesh; not
// decided: they say nothing.
func Joins(labels map[string]string, o Options) (in, decided bool) { return meshed(nil, labels, o) }

// StrangeLabel finds a value of our label that means nothing. Whoever wrote it wanted
// a pod in the mesh or out of it, and did not say which.
func StrangeLabel(labels map[string]string) (value string, strange bool) {
	value, labelled := labels[MeshLabel]
	return value, labelled && value != MeshEnabled && value != MeshDisabled
}

func podAddrs(pod *corev1.Pod) []netip.Addr {
	texts := []string{pod.Status.PodIP}
	for _, ip := range pod.Status.PodIPs {
		texts = append(texts, ip.IP)
	}
	return parseAddrs(texts)
}

// parseAddrs leaves out what is empty or no address, and duplicates.
func parseAddrs(texts []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range texts {
		addr, err := netip.ParseAddr(text)
		if addr = addr.Unmap(); err == nil && !slices.Contains(out, addr) {
			out = append(out, addr)
		}
	}
	return out
}

func terminated(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// podServes reports whether the pod can take connections, leaving or not.
// Without a Ready condition, which the kubelet writes as soon as it knows the
// pod, only a Pending one is taken for unready: a directory of YAML has no kubelet.
func podServes(pod *corev1.Pod) bool {
	if terminated(pod) {
		return false
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return pod.Status.Phase != corev1.PodPending && pod.Status.Phase != corev1.PodUnknown
}

// longRunning returns the containers that live as long as the pod, in the
// order in which Kubernetes looks for a port's name.
func longRunning(pod *corev1.Pod) []*corev1.Container {
	var out []*corev1.Container
	for i := range pod.Spec.Containers {
		out = append(out, &pod.Spec.Containers[i])
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			out = append(out, c)
		}
	}
	return out
}

// namedPorts are sorted by name; of two with one name, the first counts.
func namedPorts(pod *corev1.Pod) []workload.NamedPort {
	var out []workload.NamedPort
	for _, c := range longRunning(pod) {
		for _, p := range c.Ports {
			if port, ok := portNumber(p.ContainerPort); ok && p.Name != "" && isTCP(p.Protocol) {
				out = append(out, workload.NamedPort{Name: p.Name, Port: port})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b workload.NamedPort) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(out, func(a, b workload.NamedPort) bool { return a.Name == b.Name })
}

func declaredPorts(pod *corev1.Pod) []uint16 {
	var out []uint16
	for _, c := range longRunning(pod) {
		for _, p := range c.Ports {
			if port, ok := portNumber(p.ContainerPort); ok && isTCP(p.Protocol) {
				out = append(out, port)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// containerPort resolves a probe's port; a name is one of the same container.
func containerPort(c *corev1.Container, target intstr.IntOrString) (uint16, bool) {
	if target.Type == intstr.Int {
		return portNumber(target.IntVal)
	}
	for _, p := range c.Ports {
		if p.Name == target.StrVal {
			return portNumber(p.ContainerPort)
		}
	}
	// The kubelet takes a number in quotes for a number.
	n, err := strconv.ParseInt(target.StrVal, 10, 32)
	if err != nil {
		return 0, false
	}
	return portNumber(int32(n))
}

func portNumber(n int32) (uint16, bool) { return uint16(n), n > 0 && n < 1<<16 }

func isTCP(p corev1.Protocol) bool { return p == "" || p == corev1.ProtocolTCP }

// cronJob is the name of a Job which a CronJob made: the CronJob's and a time.
var cronJob = regexp.MustCompile(`^(.+)-\d{8,10}$`)

// owner names what the pod belongs to, as Istio does: the Deployment of its
// ReplicaSet, the CronJob of its Job, else the controller, else the pod.
func owner(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return pod.Name
	}
	switch hash := pod.Labels["pod-template-hash"]; {
	case ref.Kind == "ReplicaSet" && hash != "":
		return cmp.Or(strings.TrimSuffix(ref.Name, "-"+hash), ref.Name)
	case ref.Kind == "ReplicationController" && pod.Labels["deploymentconfig"] != "":
		return pod.Labels["deploymentconfig"]
	case ref.Kind == "Job":
		if m := cronJob.FindStringSubmatch(ref.Name); m != nil {
			return m[1]
		}
	}
	return cmp.Or(ref.Name, pod.Name)
}

// ofDaemonSet reports whether the pod's controller is a DaemonSet of Kubernetes' own.
func ofDaemonSet(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	return ref != nil && ref.Kind == "DaemonSet" && strings.HasPrefix(ref.APIVersion, "apps/")
}

func firstLabel(labels workload.Labels, otherwise string, keys ...string) string {
	for _, key := range keys {
		if v, _ := labels.Get(key); v != "" {
			return v
		}
	}
	return otherwise
}
