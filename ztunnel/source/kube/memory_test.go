// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"path/filepath"
	"runtime"
	"testing"

	"github.com/culvert-mesh/culvert/ztunnel/source"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// mostOfAPod is how many bytes a pod of another node may take in all that a ztunnel
// keeps of it: in the Source and in a Registry.
const mostOfAPod = 500

func TestAPodTakesLittleMemory(t *testing.T) {
	if name := benchPod(0, 0).Name; len(name) != 60 {
		t.Fatalf("%s has %d characters, not the 60 that the limit is of", name, len(name))
	}
	for _, pods := range []int{manyPods, 2 * manyPods} {
		k := keep(pods, false)
		t.Logf("%d pods: %d bytes each", pods, k.bytes/pods)
		if k.bytes/pods > mostOfAPod {
			t.Errorf("a pod of %d takes %d bytes, want %d at most", pods, k.bytes/pods, mostOfAPod)
		}
		k.change(1)
		if after := k.grown(); after/pods > mostOfAPod {
			t.Errorf("once each has changed, a pod takes %d bytes, want %d at most", after/pods, mostOfAPod)
		}
	}
}

// kept is what holds a cluster.
type kept struct {
	before   uint64
	bytes    int // that it took
	pods     int
	source   *Source
	kinds    map[source.Kind]*kind
	registry *workload.Registry
}

// keep has a cluster told to a source and a registry.
func keep(pods int, services bool) *kept {
	k := &kept{before: heap(), pods: pods}
	k.source, k.kinds = benchPods(pods)
	if services {
		benchServices(k.kinds, pods)
	}
	k.registry = workload.NewRegistry(nil)
	k.registry.Node = benchPod(0, 0).Spec.NodeName
	k.registry.Replace(k.source.builder.Snapshot().Mesh)
	k.bytes = k.grown()
	return k
}

// change has each pod told anew.
func (k *kept) change(revision int) {
	for i := range k.pods {
		k.kinds[source.KindPod].Update(asFromTheWire(benchPod(i, revision)))
		if i%1000 == 0 {
			k.registry.Replace(k.source.builder.Snapshot().Mesh)
		}
	}
}

// grown is what more there is in the heap than before.
func (k *kept) grown() int {
	bytes := int(heap() - k.before)
	runtime.KeepAlive(k)
	return bytes
}

// heap is how many bytes are in use, without what nobody holds.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one found may hold more
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// BenchmarkStateFile reports what writing it takes, with Services, and its size.
func BenchmarkStateFile(b *testing.B) {
	s := keep(manyPods, true).source
	path := filepath.Join(b.TempDir(), "workloads")
	size := 0
	for b.Loop() {
		snapshot := s.builder.Snapshot()
		var err error
		if size, err = writeState(path, &state{Policies: snapshot.Policies, Mesh: snapshot.Mesh}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(size), "B")
}

// BenchmarkMemoryOfPods reports what a ztunnel holds of each pod, alone and with its
// share of Services and EndpointSlices.
func BenchmarkMemoryOfPods(b *testing.B) {
	for b.Loop() {
		alone, whole := keep(manyPods, false).bytes, keep(manyPods, true).bytes
		b.ReportMetric(float64(alone)/manyPods, "B/pod")
		b.ReportMetric(float64(whole)/manyPods, "B/pod-and-endpoint")
	}
}
