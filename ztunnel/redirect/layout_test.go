// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
)

var rewrite = flag.Bool("update", false, "rewrite golden files")

// A map of another layout under the same version would not be taken over: the
// next ztunnel could not start, or would find other entries than it thinks.
func TestLayoutChangesOnlyWithItsVersion(t *testing.T) {
	spec, err := loadMesh()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if m := spec.Maps[name]; m.Pinning == ebpf.PinByName {
			fmt.Fprintf(&text, "%s %v key %d value %d entries %d flags %d\n", name, m.Type, m.KeySize, m.ValueSize, m.MaxEntries, m.Flags)
		}
	}
	for _, enum := range []string{"counter", "listener_kind", "sock_kind"} {
		names, err := enumerators(spec, enum)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "%s: %s\n", enum, strings.Join(names, " "))
	}
	golden := filepath.Join("testdata", fmt.Sprintf("layout-v%d.txt", layout))
	if *rewrite {
		if err := os.WriteFile(golden, []byte(text.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if text.String() != string(want) {
		t.Errorf("the layout of pins is\n%s\nwant that of %s:\n%s\nIf v%d is in use anywhere, raise layout and add to migrations; else go test -update",
			&text, golden, want, layout)
	}
}
