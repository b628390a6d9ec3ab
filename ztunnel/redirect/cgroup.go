// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

// cgroup2Hint says where cgroup2 is: on a host with both versions not where
// one would look for it. It never proposes a mount over what is there.
func cgroup2Hint() string {
	found, err := mountinfo.OfType("cgroup2")
	if err != nil || len(found) == 0 {
		return "no cgroup2 is mounted here: make a directory for it and mount -t cgroup2 cgroup2 DIRECTORY"
	}
	var points []string
	for _, m := range found {
		points = append(points, m.Point)
	}
	return "cgroup2 is mounted on " + strings.Join(points, " and ")
}

// cgroupOf returns the cgroup2 path of a process, as this process's cgroup
// namespace names it. Every process is in one, if the kernel has cgroup2.
func cgroupOf(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", fmt.Errorf("cgroup of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n"), nil
		}
	}
	return "", fmt.Errorf("process %d is in no cgroup of version 2", pid)
}

// cgroupDir returns the directory of a cgroup2 path.
func cgroupDir(path string) (string, error) {
	found, err := mountinfo.OfType("cgroup2")
	if err != nil {
		return "", err
	}
	for _, m := range found {
		if dir, ok := dirIn(m, path); ok && onCgroup2(dir) == nil {
			return dir, nil
		}
	}
	return "", fmt.Errorf("cgroup %s cannot be seen from here: %s", path, cgroup2Hint())
}

// dirIn returns where a mount of cgroup2 shows a path. The kernel names the root
// of a mount and the path of a process from the same place, the root of our
// cgroup namespace; what is above that begins with /.. in both.
func dirIn(m mountinfo.Mount, path string) (string, bool) {
	below, ok := strings.CutPrefix(path+"/", strings.TrimSuffix(m.Root, "/")+"/")
	if !ok || strings.HasPrefix(below, "../") {
		return "", false
	}
	return filepath.Join(m.Point, below), true
}

// cgroupsOfPod are the cgroup2 directories whose name has one of the names in
// it, without those below one that has.
func cgroupsOfPod(names []string) ([]string, error) {
	found, err := mountinfo.OfType("cgroup2")
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range found {
		err := filepath.WalkDir(m.Point, func(path string, d fs.DirEntry, err error) error {
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return nil // it just ended
			case err != nil:
				return err
			case !d.IsDir():
				return nil
			case containsAny(d.Name(), names):
				dirs = append(dirs, path)
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("search the cgroups of %s: %w", m.Point, err)
		}
	}
	return dirs, nil
}

// processesOfPod are those in a cgroup, of any version, whose name has one of
// the names in it.
func processesOfPod(names []string) ([]int, error) {
	entries, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range entries {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup"))
		if err != nil || !containsAny(string(bytes.TrimSpace(text)), names) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(dir), &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func containsAny(text string, names []string) bool {
	for _, name := range names {
		if strings.Contains(text, name) {
			return true
		}
	}
	return false
}
