// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// hierarchy is one tree of cgroups that this machine has mounted.
type hierarchy struct {
	Point   string // where the machine has it
	Type    string // "cgroup" or "cgroup2"
	Options string // of mount(2): the controllers, or the name, of a v1 hierarchy
}

// hierarchies reads them, each once, from proc_pid_mountinfo(5).
func hierarchies() ([]hierarchy, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if len(mount) < 5 || len(super) < 3 || super[0] != "cgroup" && super[0] != "cgroup2" {
			continue
		}
		h := hierarchy{Point: mount[4], Type: super[0]}
		if h.Type == "cgroup" {
			h.Options = v1Options(super[2])
		}
		if !slices.ContainsFunc(found, h.same) {
			found = append(found, h)
		}
	}
	return found, nil
}

// same reports whether other is another mount of the same hierarchy.
func (h hierarchy) same(other hierarchy) bool {
	return h.Type == other.Type && h.Options == other.Options
}

// v1Options makes, of the options that the kernel shows for a v1 hierarchy, those that
// mount it again.
func v1Options(shown string) string {
	var options []string
	for option := range strings.SplitSeq(shown, ",") {
		switch option {
		case "rw", "ro", "xattr", "clone_children":
		default:
			if strings.HasPrefix(option, "name=") {
				options = append(options, "none")
			}
			options = append(options, option)
		}
	}
	return strings.Join(options, ",")
}

// DefaultCgroups is the flavour of this machine: "v1" or "v2".
func DefaultCgroups() (string, error) {
	all, err := hierarchies()
	if slices.ContainsFunc(all, func(h hierarchy) bool { return strings.Contains(h.Options, "memory") }) {
		return "v1", err
	}
	return "v2", err
}

// nodeCgroup is the name of a node's cgroup in every hierarchy.
func (c Config) nodeCgroup(node string) string { return "culvert-" + c.Name + "-" + node }

// joinCgroups makes the node's cgroup in every hierarchy, puts this process into it and
// makes it the root of what this thread, and whoever it starts, can see.
func (c Config) joinCgroups(node string, all []hierarchy) error {
	for _, h := range all {
		dir := filepath.Join(h.Point, c.nodeCgroup(node))
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make a cgroup: %w", err)
		}
		if err := inheritCPUs(h, dir); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("0"), 0); err != nil {
			return fmt.Errorf("join cgroup %s: %w", dir, err)
		}
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare(CLONE_NEWCGROUP): %w", err)
	}
	return nil
}

// inheritCPUs lets processes into a new cgroup of the v1 hierarchy cpuset: it begins
// without a processor.
func inheritCPUs(h hierarchy, dir string) error {
	if h.Type != "cgroup" || !slices.Contains(strings.Split(h.Options, ","), "cpuset") {
		return nil
	}
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(h.Point, file))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, file), value, 0); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "cgroup.clone_children"), []byte("1"), 0)
}

// removeCgroups removes the cgroups of all nodes.
func (c Config) removeCgroups() error {
	var errs []error
	for _, n := range nodes {
		errs = append(errs, c.removeNodeCgroups(n))
	}
	return errors.Join(errs...)
}

// removeNodeCgroups removes the cgroups of a node. A cgroup can be removed a moment after
// its last process is gone, so it tries for ten seconds.
func (c Config) removeNodeCgroups(n node) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for _, h := range all {
		dir := filepath.Join(h.Point, c.nodeCgroup(n.Name))
		for err = removeTree(dir); err != nil && time.Now().Before(deadline); err = removeTree(dir) {
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes the cgroups at and below dir, children first.
func removeTree(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	for _, d := range slices.Backward(dirs) {
		if rmErr := unix.Rmdir(d); rmErr != nil && !errors.Is(rmErr, unix.ENOENT) {
			err = errors.Join(err, fmt.Errorf("remove cgroup %s: %w", d, rmErr))
		}
	}
	return err
}

// limiting are the controllers by which the kubelet and runc limit a pod.
var limiting = []string{"cpu", "memory", "pids"}

// runc is the name of the program that starts containers: runc itself, or, where
// cgroup2 lacks a controller because the machine has it in a v1 hierarchy, unlimited.
func (c Config) runc() (string, error) {
	if c.Cgroups == "v1" {
		return "runc", nil
	}
	all, err := hierarchies()
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(all, func(h hierarchy) bool { return h.Type == "cgroup2" })
	if i < 0 {
		return "", errors.New("this machine has no cgroup2 mounted")
	}
	text, err := os.ReadFile(filepath.Join(all[i].Point, "cgroup.controllers"))
	if err != nil {
		return "", err
	}
	present := strings.Fields(string(text))
	for _, controller := range limiting {
		if !slices.Contains(present, controller) {
			return "unlimited", nil
		}
	}
	return "runc", nil
}

// leaveRootCgroup moves a node's first process, and so all that follow, out of the root
// of the node's cgroup2: a cgroup that has processes cannot give its children
// controllers.
func leaveRootCgroup() error {
	const leaf = "/sys/fs/cgroup/machine"
	if err := os.Mkdir(leaf, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte("0"), 0)
}
