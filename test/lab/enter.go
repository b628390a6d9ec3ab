// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// enterScript writes a script that runs its arguments as a process of the
// place, for people. ip-netns(8) alone would not do: a shell outside a pod's
// cgroup is not steered.
func (l *Lab) enterScript(name string, p *Place) error {
	path := l.EnterScript(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("#!/bin/sh\n[ $# -gt 0 ] || set -- sh\nexec %q enter -netns %q -cgroup %q -- \"$@\"\n",
		p.App(), p.Netns, p.Cgroup)
	return os.WriteFile(path, []byte(text), 0o755)
}

// EnterScript is the path of the script that runs a command in a pod, named
// "namespace-name", on a node, "node1", or "outside".
func (l *Lab) EnterScript(name string) string { return filepath.Join(l.run.dir, "enter", name) }

func (l *Lab) removeScript(name string) error {
	if err := os.Remove(l.EnterScript(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
