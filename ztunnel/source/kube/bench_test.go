// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The cluster of the benchmarks: 20 pods on each node, ten in each Deployment and
// behind its Service, ten Deployments in each namespace.
const (
	manyPods     = 5000
	changesEach  = 100 // a second
	podsOfNode   = 20
	podsOfGroup  = 10
	groupsOfName = 10
)

// benchPod is as a Deployment's pods are when the kubelet has started them.
func benchPod(i, revision int) *corev1.Pod {
	four := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()
	six := fmt.Sprintf("fd00:10:1::%x", i+1)
	group := i / podsOfGroup
	app := fmt.Sprintf("payments-checkout-frontend-of-the-shop-%04d", group)
	host := fmt.Sprintf("192.168.%d.%d", i/podsOfNode/250, i/podsOfNode%250)
	controller, probe := true, func(port string) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromString(port)}}, PeriodSeconds: 10}
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-6d4b75cb6d-%05d", app, i), GenerateName: app + "-6d4b75cb6d-", Namespace: fmt.Sprintf("team-%d", group/groupsOfName),
			UID: types.UID(fmt.Sprintf("3f0c9b1e-0000-4000-8000-%012d", i)), ResourceVersion: fmt.Sprint(revision), CreationTimestamp: metav1.Unix(1764000000+int64(i), 0),
			Labels: map[string]string{
				"app": app, "app.kubernetes.io/part-of": "webshop", "app.kubernetes.io/version": "v1.27.3", "pod-template-hash": "6d4b75cb6d", "team": "payments",
			},
			Annotations:     map[string]string{"kubectl.kubernetes.io/restartedAt": "2026-01-02T03:04:05Z", "prometheus.io/scrape": "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: app + "-6d4b75cb6d", UID: "0b5cbb4a-5b52-4b4a-8f6e-8a2c1f0e7d11", Controller: &controller}},
			ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubelet", Operation: "Update", FieldsV1: metav1.NewFieldsV1(strings.Repeat("f", 2000))}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("ip-10-0-%d.eu-central-1.compute.internal", i/podsOfNode), ServiceAccountName: "checkout-frontend",
			Volumes: []corev1.Volume{{Name: "config"}, {Name: "kube-api-access-x2x4f"}},
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example/web:1", LivenessProbe: probe("http"), ReadinessProbe: probe("http"),
				Env: []corev1.EnvVar{{Name: "A", Value: "a"}, {Name: "B", Value: "b"}}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: corev1.ProtocolTCP}},
			}, {
				Name: "exporter", Image: "registry.example/exporter:1", ReadinessProbe: probe("metrics"),
				Ports: []corev1.ContainerPort{{Name: "metrics", ContainerPort: 9102, Protocol: corev1.ProtocolTCP}},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: four, PodIPs: []corev1.PodIP{{IP: four}, {IP: six}}, HostIP: host, HostIPs: []corev1.HostIP{{IP: host}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
}

// asFromTheWire returns the pod as a client decodes it: no two pods share a string.
func asFromTheWire(pod *corev1.Pod) *corev1.Pod {
	data, _ := pod.Marshal()
	out := &corev1.Pod{}
	if err := out.Unmarshal(data); err != nil {
		panic(err)
	}
	return out
}

// benchPods fills a source that nobody runs with pods, and namespaces in the mesh.
func benchPods(pods int) (*Source, map[source.Kind]*kind) {
	s := &Source{
		poked: make(chan struct{}, 1), health: newHealth(),
		builder: source.NewBuilder(source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}),
	}
	kinds := map[source.Kind]*kind{}
	for _, i := range builtIn {
		k := &kind{Kind: source.KindOf(i.example), source: s, understand: trimmed, wrong: map[source.Name]string{}}
		kinds[k.Kind], s.kinds = k, append(s.kinds, k)
	}
	for i := range pods {
		pod := asFromTheWire(benchPod(i, 0))
		if i%(podsOfGroup*groupsOfName) == 0 {
			kinds[source.KindNamespace].Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace, Labels: map[string]string{source.MeshLabel: source.MeshEnabled}}})
		}
		kinds[source.KindPod].Add(pod)
	}
	return s, kinds
}

// benchServices adds a Service for each group of pods.
func benchServices(kinds map[source.Kind]*kind, pods int) {
	for i := 0; i < pods; i += podsOfGroup {
		pod := benchPod(i, 0)
		name := pod.Labels["app"]
		kinds[source.KindService].Add(&corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: pod.Namespace},
			Spec: corev1.ServiceSpec{ClusterIP: netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}).String(), Selector: map[string]string{"app": name},
				Ports: []corev1.ServicePort{{Port: 80}}},
		})
		port, protocol := int32(8080), corev1.ProtocolTCP
		slice := &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Name: name, Namespace: pod.Namespace, Labels: map[string]string{discoveryv1.LabelServiceName: name}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: &port, Protocol: &protocol}},
		}
		for j := range podsOfGroup {
			p, yes, no := benchPod(i+j, 0), true, false
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{p.Status.PodIP}, NodeName: &p.Spec.NodeName,
				Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
				TargetRef:  &corev1.ObjectReference{Kind: "Pod", Name: p.Name, Namespace: p.Namespace, UID: p.UID},
			})
		}
		data, _ := slice.Marshal()
		decoded := &discoveryv1.EndpointSlice{}
		if err := decoded.Unmarshal(data); err != nil {
			panic(err)
		}
		kinds[source.KindEndpointSlice].Add(decoded)
	}
}

// BenchmarkASecondOfChanges is a second in the life of a cluster of 5,000 pods, of
// which 100 change: they are decoded, understood, and reach a registry in as many
// snapshots as Run would make. It reports what that takes of a core; an operation
// is one second.
func BenchmarkASecondOfChanges(b *testing.B) {
	s, kinds := benchPods(manyPods)
	benchServices(kinds, manyPods)
	registry := workload.NewRegistry(nil)
	wire := make([][]byte, 1000)
	for i := range wire {
		wire[i], _ = benchPod(i, 1).Marshal()
	}
	changes, snapshots := 0, 0
	var free time.Duration // of the second, when the next snapshot is due
	before := cpuTime(b)
	for b.Loop() {
		for i := range changesEach {
			now := time.Duration(i) * time.Second / changesEach
			pod := &corev1.Pod{}
			if err := pod.Unmarshal(wire[changes%len(wire)]); err != nil {
				b.Fatal(err)
			}
			changes++
			kinds[source.KindPod].Update(pod)
			if now < free {
				continue
			}
			start := time.Now()
			registry.Replace(s.builder.Snapshot().Mesh)
			snapshots++
			free = now + pauseAfter(time.Since(start))
		}
		free -= time.Second
	}
	used := cpuTime(b) - before
	b.ReportMetric(100*used.Seconds()/float64(b.N), "%core")
	b.ReportMetric(float64(snapshots)/float64(b.N), "snapshots/s")
}

// cpuTime is what this process has used of all cores, so that others on the machine
// do not count.
func cpuTime(b *testing.B) time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
