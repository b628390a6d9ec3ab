// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestSandboxesOfThisBootAreFoundAgainAndOthersForgotten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sandboxes")
	files, err := openSandboxFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	now := sandbox{ContainerID: "aa", PodUID: "u1", Namespace: "shop", Name: "web", Netns: "/run/netns/x",
		Cookie: 7, Inode: 8, BootID: "now", IPs: []netip.Addr{netip.MustParseAddr("fd00::1")}}
	before := sandbox{ContainerID: "bb", BootID: "before"}
	for _, s := range []sandbox{now, before} {
		if err := files.write(s); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(dir, "cc.json")
	if err := os.WriteFile(broken, []byte(`{"containerID": `), 0o600); err != nil {
		t.Fatal(err)
	}

	found, problems := files.load("now")
	if diff := cmp.Diff([]sandbox{now}, found, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	if problems == nil || !strings.Contains(problems.Error(), broken) {
		t.Errorf("problems %v, want one that names %s", problems, broken)
	}
	if _, err := os.Stat(files.path("bb")); !os.IsNotExist(err) {
		t.Errorf("the record of an earlier boot is still there: %v", err)
	}
	if err := files.remove("aa"); err != nil {
		t.Error(err)
	}
	if err := files.remove("aa"); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}

func TestARecordThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	files, err := openSandboxFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	old := sandbox{ContainerID: "aa", Name: "old", BootID: "now"}
	if err := files.write(old); err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the temporary file: as good as a full disk.
	if err := os.Mkdir(files.path("aa")+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	err = files.write(sandbox{ContainerID: "aa", Namespace: "shop", Name: "new", BootID: "now"})
	if err == nil || !strings.Contains(err.Error(), "shop/new") {
		t.Errorf("error %v, want one that names the pod", err)
	}
	found, _ := files.load("now")
	if len(found) != 1 || found[0].Name != "old" {
		t.Errorf("found %v, want the old record", found)
	}
}

func TestTheSnapshotCallsANamespaceMeshedForOnePodsLabel(t *testing.T) {
	got := Snapshot(workload.Mesh{
		Workloads: []workload.Workload{{Namespace: "mixed", Meshed: true}, {Namespace: "mixed"}, {Namespace: "plain"}},
		Namespaces: map[string]workload.Namespace{
			"mixed": {}, "plain": {}, "shop": {Meshed: true},
		},
	}, "culvert-system/ztunnel-x")
	if diff := cmp.Diff([]string{"mixed", "shop"}, got.MeshedNamespaces); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"mixed", "plain", "shop"}, got.AllNamespaces); diff != "" {
		t.Error(diff)
	}
	if got.OwnPod.Namespace != "culvert-system" || got.OwnPod.Name != "ztunnel-x" {
		t.Errorf("own pod %+v", got.OwnPod)
	}
}

func TestStartTimeIsReadPastAnyCommandName(t *testing.T) {
	dir := t.TempDir()
	stat := "12 (a) R 0 (x)) S 1 1 1 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0\n"
	if err := os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := startTime(dir); got != 4711 || err != nil {
		t.Errorf("start time %d, %v; want 4711", got, err)
	}
}
