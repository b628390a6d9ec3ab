// SPDX-License-Identifier: Apache-2.0

package env

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

// CgroupMount returns the cgroup2 mount: /sys/fs/cgroup, or
// /sys/fs/cgroup/unified on a hybrid host.
func CgroupMount(t testing.TB) string {
	t.Helper()
	Need(t, Cgroup2)
	mount, err := findCgroup2()
	if err != nil {
		t.Fatal(err)
	}
	return mount
}

// NewCgroup returns a new, empty cgroup. When the test ends, what is left in
// it and below it is moved to its parent, and it is removed.
func NewCgroup(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(CgroupMount(t), "culvert-test-")
	if err != nil {
		t.Fatalf("make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		if err := removeCgroup(dir); err != nil {
			t.Errorf("remove cgroup %s: %v", dir, err)
		}
	})
	return dir
}

func probeCgroup2() error {
	mount, err := findCgroup2()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(mount, "culvert-probe-")
	if err != nil {
		return err
	}
	return os.Remove(dir)
}

func findCgroup2() (string, error) {
	found, err := mountinfo.OfType("cgroup2")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", fmt.Errorf("no cgroup2 in %s: %w", mountinfo.Self, unix.ENODEV)
	}
	return found[0].Point, nil
}

// removeCgroup tries for ten seconds: a process may be forking, or exiting,
// between the move and the rmdir.
func removeCgroup(dir string) error {
	deadline := time.After(10 * time.Second)
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for {
		err := emptyAndRemove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		select {
		case <-deadline:
			return err
		case <-again.C:
		}
	}
}

func emptyAndRemove(dir string) error {
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, d := range slices.Backward(dirs) { // children first
		if err := moveOut(d, filepath.Dir(dir)); err != nil {
			return err
		}
		if err := unix.Rmdir(d); err != nil {
			return fmt.Errorf("rmdir(%s): %w", d, err)
		}
	}
	return nil
}

// moveOut writes the processes of one cgroup to another, one write each, as
// the kernel takes no more. One that exited meanwhile is as good as moved.
func moveOut(from, to string) error {
	pids, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return err
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		err := os.WriteFile(filepath.Join(to, "cgroup.procs"), []byte(pid), 0)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("move process %s: %w", pid, err)
		}
	}
	return nil
}
