// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"runtime"
	"testing"
)

func TestTheIDOfAnObjectIsTheKernels(t *testing.T) {
	w := newWorld(t)
	for _, a := range w.d.anchors {
		info, err := a.prog.Info()
		if err != nil {
			t.Fatal(err)
		}
		want, _ := info.ID()
		if id, err := objectID(a.prog.FD()); err != nil || id != uint32(want) || id == 0 {
			t.Errorf("program of %s: %d, %v; want %d", a.name, id, err, want)
		}
	}
	info, err := w.d.mesh.Pods.Info()
	if err != nil {
		t.Fatal(err)
	}
	want, _ := info.ID()
	if id, err := objectID(w.d.mesh.Pods.FD()); err != nil || id != uint32(want) || id == 0 {
		t.Errorf("map of pods: %d, %v; want %d", id, err, want)
	}
	if id, err := objectID(-1); err == nil {
		t.Errorf("no descriptor: %d", id)
	}
}

// All that is steered is verified every two seconds: what that leaves for the collector is
// what an idle node collects.
func TestToVerifyLeavesLittleGarbage(t *testing.T) {
	w := newWorld(t)
	w.enrolled(9090)
	verify := func() {
		if wrong, err := w.d.Verify(t.Context()); err != nil || len(wrong) > 0 {
			t.Fatal(wrong, err)
		}
	}
	verify()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	verify()
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 120<<10 {
		t.Errorf("%d bytes", n)
	}
}
