// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

func TestUninstallRefusesWhileNamespacesAreInTheMesh(t *testing.T) {
	dir := t.TempDir()
	bpffs, state := filepath.Join(dir, "bpffs"), filepath.Join(dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	snapshot := filepath.Join(state, snapshotFile)
	write := func(meshed ...string) {
		t.Helper()
		if err := enroll.WriteSnapshot(snapshot, enroll.Snapshot{MeshedNamespaces: meshed, AllNamespaces: []string{"bank", "default", "shop"}}); err != nil {
			t.Fatal(err)
		}
	}

	write("bank", "shop")
	if err := Uninstall(bpffs, state); err == nil || !strings.Contains(err.Error(), "bank, shop: take them out by their labels") {
		t.Errorf("with two namespaces in the mesh: %v", err)
	}
	if _, err := os.Stat(snapshot); err != nil {
		t.Errorf("a refusal: %v; the plugin must know the namespaces", err)
	}

	// ztunnel writes it again when the labels are off.
	write()
	for _, file := range []string{bundleFile, spireFile, denyFile, workloadsFile} {
		if err := os.WriteFile(filepath.Join(state, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing
		if err := Uninstall(bpffs, state); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state directory is still there: %v", err)
	}
}

func TestUninstallRefusesASnapshotThatItCannotRead(t *testing.T) {
	state := t.TempDir()
	if err := os.WriteFile(filepath.Join(state, snapshotFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Uninstall(filepath.Join(state, "bpffs"), state); err == nil || !strings.Contains(err.Error(), "read snapshot") {
		t.Errorf("%v", err)
	}
}
