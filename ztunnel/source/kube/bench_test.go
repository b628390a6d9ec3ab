// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// The cluster of the benchmarks: pods on 20 of each node, ten behind each service.
const (
	manyPods     = 5000
	changesEach  = 100 // a second
	podsOfNode   = 20
	podsOfGroup  = 10
	groupsOfName = 10
)

func benchPod(i, revision int) *corev1.Pod {
	ip := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}).String()
	group := i / podsOfGroup
	name := fmt.Sprintf("web-%d-6d4b75cb6d-%05d", group, i)
	controller := true
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz"}}}
	probe.HTTPGet.Port.IntVal = 8080
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: fmt.Sprintf("team-%d", group/groupsOfName), UID: types.UID(fmt.Sprintf("3f0c9b1e-0000-4000-8000-%012d", i)),
			ResourceVersion: fmt.Sprint(revision), Labels: map[string]string{"app": fmt.Sprintf("web-%d", group), "pod-template-hash": "6d4b75cb6d", "version": "v1"},
			OwnerReferences: []metav1.OwnerReference{{Kind: "ReplicaSet", Name: fmt.Sprintf("web-%d-6d4b75cb6d", group), Controller: &controller}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node-%d", i/podsOfNode), ServiceAccountName: "web",
			Containers: []corev1.Container{{
				Name: "web", Image: "registry.example/web:1", ReadinessProbe: probe, LivenessProbe: probe,
				Env:   []corev1.EnvVar{{Name: "A", Value: "a"}, {Name: "B", Value: "b"}},
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}, HostIP: fmt.Sprintf("192.168.%d.%d", i/podsOfNode/250, i/podsOfNode%250),
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}, {Type: corev1.PodScheduled, Status: corev1.ConditionTrue}},
		},
	}
}

// benchCluster fills a source that nobody runs.
func benchCluster() (*Source, map[source.Kind]*kind) {
	s := &Source{
		poked: make(chan struct{}, 1), health: newHealth(),
		builder: source.NewBuilder(source.Options{TrustDomain: spiffeid.RequireTrustDomainFromString("cluster.local")}),
	}
	kinds := map[source.Kind]*kind{}
	for _, i := range builtIn {
		k := &kind{Kind: source.KindOf(i.example), source: s, understand: trimmed, names: map[source.Name]string{}}
		kinds[k.Kind], s.kinds = k, append(s.kinds, k)
	}
	for i := range manyPods {
		pod := benchPod(i, 0)
		kinds[source.KindPod].Add(pod)
		if i%podsOfGroup > 0 {
			continue
		}
		name := pod.Labels["app"]
		kinds[source.KindNamespace].Add(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pod.Namespace, Labels: map[string]string{source.MeshLabel: source.MeshEnabled}}})
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
			slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{benchPod(i+j, 0).Status.PodIP}})
		}
		kinds[source.KindEndpointSlice].Add(slice)
	}
	return s, kinds
}

// BenchmarkASecondOfChanges is a second in the life of a cluster of 5,000 pods, of
// which 100 change: they are decoded, understood, and reach a registry in as many
// snapshots as Run would make. It reports what that takes of a core; an operation
// is one second.
func BenchmarkASecondOfChanges(b *testing.B) {
	s, kinds := benchCluster()
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

// BenchmarkMemoryOfPods reports what a source holds of each pod, with its share of
// services and namespaces.
func BenchmarkMemoryOfPods(b *testing.B) {
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, kinds := benchCluster()
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(s)
		runtime.KeepAlive(kinds)
	}
	b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/manyPods, "B/pod")
}
