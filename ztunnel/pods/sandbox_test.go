// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// aRecord is one that load finds whole.
func aRecord(cookie netns.Cookie) sandbox {
	return sandbox{ContainerID: fmt.Sprintf("c%d", cookie), PodUID: "u1", Namespace: "shop", Name: "web", Netns: "/run/netns/x",
		Cookie: cookie, Inode: 8, BootID: "now",
		Networks: []network{{Name: "net", IfName: "eth0", IPs: []netip.Addr{netip.MustParseAddr("fd00::1")}}}}
}

func wantRecords(t *testing.T, files sandboxFiles, want ...sandbox) (problems error) {
	t.Helper()
	found, problems := files.load("now")
	if diff := cmp.Diff(want, found, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("found (-want +got):\n%s", diff)
	}
	return problems
}

func TestSandboxesOfThisBootAreFoundAgainAndOthersForgotten(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sandboxes")
	files, err := openSandboxFiles(dir)
	if err != nil {
		t.Fatal(err)
	}
	now, before := aRecord(7), aRecord(9)
	before.BootID = "before"
	for _, s := range []sandbox{now, before} {
		if err := files.write(s); err != nil {
			t.Fatal(err)
		}
	}
	broken := filepath.Join(dir, "cc.json")
	if err := os.WriteFile(broken, []byte(`{"containerID": `), 0o600); err != nil {
		t.Fatal(err)
	}

	problems := wantRecords(t, files, now)
	if problems == nil || !strings.Contains(problems.Error(), broken) {
		t.Errorf("problems %v, want one that names %s", problems, broken)
	}
	if _, err := os.Stat(files.path(9)); !os.IsNotExist(err) {
		t.Errorf("the record of an earlier boot is still there: %v", err)
	}
	if err := errors.Join(files.remove(7), files.remove(7)); err != nil {
		t.Errorf("forgetting twice: %v", err)
	}
}

func TestARecordThatCannotBeWrittenLeavesTheOldOne(t *testing.T) {
	files, err := openSandboxFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	old, fresh := aRecord(7), aRecord(7)
	if err := files.write(old); err != nil {
		t.Fatal(err)
	}
	// A directory in the way of the temporary file: as good as a full disk.
	if err := os.Mkdir(files.path(7)+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	fresh.Name = "new"
	err = files.write(fresh)
	if err == nil || !strings.Contains(err.Error(), "shop/new") {
		t.Errorf("error %v, want one that names the pod", err)
	}
	wantRecords(t, files, old)
}

// An upgrade may be cut short anywhere, and must not cost a pod its record.
func TestRecordsOfTheFormatBeforeAreReadAndBroughtUpToDate(t *testing.T) {
	files, err := openSandboxFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const one = `{"containerID":"c7","network":"net","podUID":"u1","namespace":"shop","name":"web",` +
		`"netns":"/run/netns/x","cookie":7,"inode":8,"bootID":"now","ips":["fd00::1"]}`
	before := filepath.Join(files.dir, "c7.json")
	write := func() {
		if err := os.WriteFile(before, []byte(one), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := aRecord(7)
	want.Networks[0].IfName = "" // it was not recorded
	write()
	if err := os.Mkdir(files.path(7)+".tmp", 0o700); err != nil { // the disk is full
		t.Fatal(err)
	}
	if problems := wantRecords(t, files, want); problems == nil {
		t.Error("a record that cannot be brought up to date is no problem")
	}
	for range 2 {
		if problems := wantRecords(t, files, want); problems != nil {
			t.Error(problems)
		}
		if _, err := os.Stat(before); !os.IsNotExist(err) {
			t.Errorf("the old record is still there: %v", err)
		}
	}

	want.Networks[0].IfName = "eth0" // by now it is known
	if err := files.write(want); err != nil {
		t.Fatal(err)
	}
	write() // and the upgrade before was cut short
	if problems := wantRecords(t, files, want); problems != nil {
		t.Error(problems)
	}
	wantRecords(t, files, want)
}

func TestARecordOfANewerFormatIsRefusedAndStays(t *testing.T) {
	files, err := openSandboxFiles(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(files.dir, "7.json")
	if err := os.WriteFile(newer, []byte(`{"format":3,"cookie":7,"containerID":"c7","bootID":"before"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	problems := wantRecords(t, files)
	if problems == nil || !strings.Contains(problems.Error(), newer+": format: a newer Culvert wrote it (3, this one reads up to 2)") {
		t.Errorf("problems: %v", problems)
	}
	if _, err := os.Stat(newer); err != nil {
		t.Error(err)
	}
}

func TestTheSnapshotCallsANamespaceMeshedForOnePodsLabel(t *testing.T) {
	got := Snapshot(workload.Mesh{
		Workloads: workload.Pack(workload.Workload{Namespace: "mixed", Meshed: true}, workload.Workload{Namespace: "mixed"}, workload.Workload{Namespace: "plain"}),
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
