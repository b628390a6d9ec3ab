// SPDX-License-Identifier: Apache-2.0

package file

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// A file of thousands of objects of which one changes costs that one.
func TestAReloadDecodesOnlyWhatHasChanged(t *testing.T) {
	pod := func(name, image string) string {
		return fmt.Sprintf("{apiVersion: v1, kind: Pod, metadata: {name: %s, uid: %s}, spec: {containers: [{name: c, image: %s}]}}\n", name, name, image)
	}
	file := func(documents ...string) []byte { return []byte(strings.Join(documents, "---\n")) }
	first := decode("x.yaml", file(pod("a", "v1"), pod("b", "v1"), "{kind: Pod, apiVersion: v1, metadata: {name: c, uid: c}, spec: {contaners: []}}\n"), nil)
	next := file("# a line more\n", "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}}\n", pod("b", "v1"), pod("a", "v2"),
		"{kind: Pod, apiVersion: v1, metadata: {name: c, uid: c}, spec: {contaners: []}}\n")
	again, anew := decode("x.yaml", next, first.sound), decode("x.yaml", next, nil)

	if got := again.entries[0].object; got != first.entries[1].object {
		t.Error("a pod that is the same was decoded again")
	}
	if again.entries[1].object == first.entries[0].object {
		t.Error("a pod that has changed was not")
	}
	if fmt.Sprint(again.errs.list) != fmt.Sprint(anew.errs.list) || again.mark != anew.mark || again.rest != anew.rest || again.blind != anew.blind {
		t.Errorf("it means something else than the file alone:\n%v\n%v", again.errs.list, anew.errs.list)
	}
	for i, e := range again.entries {
		if want := anew.entries[i]; e.place != want.place || e.key != want.key || e.text != want.text || e.mark != want.mark || e.broken != want.broken {
			t.Errorf("%v: %+v, want %+v", e.key, e, want)
		}
	}
	if n := len(again.sound); n != 3 { // the Deployment, b and a
		t.Errorf("%d documents are kept, want those of the file that are sound", n)
	}
	if third := decode("x.yaml", next, again.sound); len(third.errs.list) != 1 || len(third.entries) != 3 {
		t.Errorf("read once more: %v, %d objects", third.errs.list, len(third.entries))
	}
}

// BenchmarkReload is a file of 10 MB, of 20,000 pods, of which one changes.
func BenchmarkReload(b *testing.B) {
	data := podsYAML(10 << 20)
	known := decode("x.yaml", data, nil).sound
	data = bytes.Replace(data, []byte("web-7\n"), []byte("web-x\n"), 1)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		if c := decode("x.yaml", data, known); len(c.errs.list) > 0 {
			b.Fatal(c.errs.list)
		}
	}
}
