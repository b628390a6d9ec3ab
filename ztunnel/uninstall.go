// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// Uninstall takes off this node what its ztunnels left: what they pinned below the
// directory bpffs, and then their state directory. It refuses while a ztunnel runs,
// while a pod is steered, and while the last ztunnel's snapshot names namespaces of
// the mesh, whose next pods would start in plaintext. Of the state directory it removes only what ztunnel
// makes, and the directory itself if it can. What is not there is no error.
func Uninstall(bpffs, stateDir string) error {
	if _, err := os.Stat(stateDir); err == nil {
		lock, err := redirect.LockDir(stateDir)
		if err != nil {
			return fmt.Errorf("state directory (-state-dir): %w", err)
		}
		defer lock.Close()
		if err := nothingMeshed(filepath.Join(stateDir, snapshotFile)); err != nil {
			return fmt.Errorf("-state-dir: %w", err)
		}
	}
	if err := redirect.Remove(bpffs); err != nil {
		return fmt.Errorf("-bpffs: %w", err)
	}
	for _, name := range []string{enrollSocket, adminSocket, snapshotFile, bundleFile, spireFile, denyFile, workloadsFile, foreignFile, sandboxesDir} {
		if err := os.RemoveAll(filepath.Join(stateDir, name)); err != nil {
			return fmt.Errorf("-state-dir: %w", err)
		}
	}
	_ = os.Remove(stateDir) // as a volume of a container it stays
	return nil
}

// nothingMeshed is an error if the snapshot names namespaces of the mesh, or cannot be
// understood. ztunnel writes it at every change: one that is up to date names none when
// all labels are off.
func nothingMeshed(snapshot string) error {
	known, err := enroll.ReadSnapshot(snapshot)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case len(known.MeshedNamespaces) > 0:
		return fmt.Errorf("namespaces are in the mesh, and their next pods would start in plaintext: %s: take them out by their labels, and their pods, while ztunnel runs",
			strings.Join(known.MeshedNamespaces, ", "))
	}
	return nil
}
