// SPDX-License-Identifier: Apache-2.0

package install

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestTheFilesOfEveryPrimaryCNI has what each primary CNI writes, as it writes
// it, in testdata/NAME/in, and how it looks with the plugin, in testdata/NAME/want.
func TestTheFilesOfEveryPrimaryCNI(t *testing.T) {
	for _, tc := range []struct {
		name  string
		chain []string
	}{
		{"calico", []string{"calico", "bandwidth", "portmap", "culvert-cni"}},
		{"cilium", []string{"cilium-cni", "culvert-cni"}},
		{"flannel", []string{"flannel", "portmap", "culvert-cni"}},
		{"kindnet", []string{"ptp", "portmap", "culvert-cni"}},
		{"aws-vpc", []string{"aws-cni", "egress-cni", "portmap", "culvert-cni"}},
		{"ovn-kubernetes", []string{"ovn-k8s-cni-overlay", "culvert-cni"}},
		{"multus-delegates", []string{"multus"}},
		{"multus-single-delegate", []string{"multus"}},
		{"multus-cluster-network", []string{"multus-shim"}},
		{"crio", []string{"bridge", "culvert-cni"}},
		{"odd", []string{"macvlan", "tuning", "culvert-cni"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			n := newNode(t)
			dir := filepath.Join("testdata", tc.name)
			before := contents(t, filepath.Join(dir, "in"))
			for file, text := range before {
				put(t, filepath.Join(n.conf, file), text)
			}
			in := n.installer()
			if wait := in.look(time.Now()); wait != 0 {
				t.Fatalf("to be looked at again: %s", n.log)
			}
			after := contents(t, n.conf)
			if *update {
				rewrite(t, filepath.Join(dir, "want"), after)
			}
			if diff := cmp.Diff(contents(t, filepath.Join(dir, "want")), after); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if got, err := chainOf(n.conf); !slices.Equal(got, tc.chain) {
				t.Errorf("a runtime reads %q, %v; want %q", got, err, tc.chain)
			}
			in.look(time.Now())
			if diff := cmp.Diff(after, contents(t, n.conf)); diff != "" {
				t.Errorf("a second look changes it: -first +second\n%s", diff)
			}
			if err := n.uninstall(); err != nil {
				t.Fatal(err)
			}
			if tc.name == "multus-single-delegate" {
				return // its delegate stays the list that it was made
			}
			if diff := cmp.Diff(before, contents(t, n.conf)); diff != "" {
				t.Errorf("uninstalled, it is not as before: -before +after\n%s", diff)
			}
		})
	}
}

func rewrite(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		put(t, filepath.Join(dir, name), text)
	}
}
