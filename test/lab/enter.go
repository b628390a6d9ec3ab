// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// enterScript writes the pod's script. ip-netns(8) alone would not do: a shell
// outside the pod's cgroup is not steered.
func (l *Lab) enterScript(p *Pod) error {
	path := p.EnterScript()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	text := fmt.Sprintf("#!/bin/sh\n[ $# -gt 0 ] || set -- sh\nexec %q enter -netns %q -cgroup %q -- \"$@\"\n",
		p.App(), p.Netns, p.Cgroup)
	return os.WriteFile(path, []byte(text), 0o755)
}

func (l *Lab) removeScript(p *Pod) error {
	if err := os.Remove(p.EnterScript()); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
