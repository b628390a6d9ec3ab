// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

// cgroup2 finds the cgroup2 mount; on hybrid hosts it is /sys/fs/cgroup/unified.
func cgroup2() (string, error) {
	found, err := mountinfo.OfType("cgroup2")
	if err != nil {
		return "", err
	}
	if len(found) == 0 {
		return "", errors.New("no cgroup2 is mounted")
	}
	return found[0].Point, nil
}

// removeCgroup kills what runs in the cgroup and below, and removes them.
func removeCgroup(ctx context.Context, dir string) error {
	kill := filepath.Join(dir, "cgroup.kill")
	if err := os.WriteFile(kill, []byte("1"), 0); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("kill the processes of cgroup %s: %w", dir, err)
	}
	if err := awaitEmpty(ctx, dir); err != nil {
		return err
	}
	var dirs []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return err
	})
	for i := len(dirs) - 1; i >= 0; i-- { // children come after their parents
		if rerr := os.Remove(dirs[i]); !errors.Is(rerr, fs.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
	}
	return err
}

// awaitEmpty waits until the killed processes are gone; SIGKILL does not wait.
func awaitEmpty(ctx context.Context, dir string) error {
	return until(ctx, func() (bool, error) {
		events, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err != nil {
			return false, err
		}
		return bytes.Contains(events, []byte("populated 0")), nil
	})
}

// until asks done again and again, ever more slowly, until it says yes, fails,
// or ctx is done. What it asks costs the CPU that the answer waits for.
func until(ctx context.Context, done func() (bool, error)) error {
	const first, most = 2 * time.Millisecond, 50 * time.Millisecond
	for pause := first; ; pause = min(pause*3/2, most) {
		if ok, err := done(); ok || err != nil {
			return err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
