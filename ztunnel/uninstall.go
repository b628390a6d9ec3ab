// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// Uninstall takes off this node what its ztunnels left: what they pinned below the
// directory bpffs, and then their state directory. It refuses while a ztunnel runs,
// and while a pod is steered. Of the state directory it removes only what ztunnel
// makes, and the directory itself if it can. What is not there is no error.
func Uninstall(bpffs, stateDir string) error {
	if _, err := os.Stat(stateDir); err == nil {
		lock, err := redirect.LockDir(stateDir)
		if err != nil {
			return fmt.Errorf("state directory (-state-dir): %w", err)
		}
		defer lock.Close()
	}
	if err := redirect.Remove(bpffs); err != nil {
		return fmt.Errorf("-bpffs: %w", err)
	}
	for _, name := range []string{enrollSocket, adminSocket, snapshotFile, workloadsFile, sandboxesDir} {
		if err := os.RemoveAll(filepath.Join(stateDir, name)); err != nil {
			return fmt.Errorf("-state-dir: %w", err)
		}
	}
	_ = os.Remove(stateDir) // as a volume of a container it stays
	return nil
}
