// SPDX-License-Identifier: Apache-2.0

package binaries

import (
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

// How much of earlier builds the cache keeps.
const (
	mostBuilds = 3
	mostUnused = 14 * 24 * time.Hour
)

// What is beside a build's directory: the lock of whoever uses or makes it, which was last
// changed when the build was last used, and the directory in which it is made.
const (
	lockSuffix       = ".lock"
	unfinishedSuffix = ".new"
)

// used writes down that dir is used now, and removes from beside it the builds that
// nobody has used for long, and the oldest of too many.
func used(dir string) error {
	now := time.Now()
	if err := os.Chtimes(dir+lockSuffix, now, now); err != nil {
		return err
	}
	locks, err := filepath.Glob(filepath.Join(filepath.Dir(dir), "*"+lockSuffix))
	if err != nil {
		return err
	}
	type entry struct {
		dir  string
		last time.Time
	}
	var builds []entry
	for _, lock := range locks {
		st, err := os.Stat(lock)
		if err != nil {
			return err
		}
		if dir := strings.TrimSuffix(lock, lockSuffix); exists(dir) || exists(dir+unfinishedSuffix) {
			builds = append(builds, entry{dir, st.ModTime()})
		}
	}
	slices.SortFunc(builds, func(a, b entry) int { return b.last.Compare(a.last) })
	var errs []error
	for i, b := range builds {
		if i >= mostBuilds || now.Sub(b.last) > mostUnused {
			errs = append(errs, remove(b.dir))
		}
	}
	return errors.Join(errs...)
}

// remove removes the build in dir, unless a cluster runs it or somebody makes it. Its lock
// stays: another process may be waiting for it.
func remove(dir string) error {
	for _, path := range []string{dir, dir + lockSuffix} {
		f, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
			return nil
		} else if err != nil {
			return fmt.Errorf("lock %s: %w", path, err)
		}
	}
	return errors.Join(os.RemoveAll(dir), os.RemoveAll(dir+unfinishedSuffix))
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
