// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

const (
	prefix   = "culvert-"         // of a run's netns and cgroup
	runsDir  = "/run/culvert-lab" // a directory per run
	netnsDir = "/run/netns"       // where ip-netns(8) looks
	lockName = "owner"
)

// run is what one Lab owns on this machine, all of it findable by its id:
// /run/culvert-lab/ID, /run/netns/culvert-ID-*, and the cgroup culvert-ID.
type run struct {
	id     string
	dir    string
	cgroup string
	owner  *os.File // locked while the owner lives; the kernel unlocks it at any death
}

func newRun() (*run, error) {
	mount, err := cgroup2()
	if err != nil {
		return nil, err
	}
	var random [3]byte
	_, _ = rand.Read(random[:])
	id := fmt.Sprintf("%d-%s", os.Getpid(), hex.EncodeToString(random[:]))
	r := &run{id: id, dir: filepath.Join(runsDir, id), cgroup: filepath.Join(mount, prefix+id)}
	// Locked before it has its name: Sweep of another process must not take a
	// run for dead between the two.
	tmp := filepath.Join(runsDir, "."+id)
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		return nil, fmt.Errorf("make the run's directory: %w", err)
	}
	if r.owner, err = lock(filepath.Join(tmp, lockName)); err != nil {
		return nil, errors.Join(err, os.RemoveAll(tmp))
	}
	if err := os.Rename(tmp, r.dir); err != nil {
		return nil, errors.Join(fmt.Errorf("name the run's directory: %w", err), os.RemoveAll(tmp))
	}
	if err := os.Mkdir(r.cgroup, 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("make the run's cgroup: %w", err), r.remove(context.Background()))
	}
	return r, nil
}

func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// Sweep removes what runs left behind whose owner is dead, and names them. A
// run is known by its name, an owner's death by the lock it no longer holds.
func Sweep(ctx context.Context) ([]string, error) {
	mount, err := cgroup2()
	if err != nil {
		return nil, err
	}
	dirs, err := os.ReadDir(runsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var swept []string
	var errs []error
	for _, d := range dirs {
		if strings.HasPrefix(d.Name(), ".") {
			continue
		}
		dir := filepath.Join(runsDir, d.Name())
		owner, err := lock(filepath.Join(dir, lockName))
		if err != nil {
			continue // its owner lives
		}
		r := &run{id: d.Name(), dir: dir, cgroup: filepath.Join(mount, prefix+d.Name()), owner: owner}
		if err := r.remove(ctx); err != nil {
			errs = append(errs, fmt.Errorf("sweep run %s: %w", r.id, err))
			continue
		}
		swept = append(swept, r.id)
	}
	return swept, errors.Join(errs...)
}

// remove removes all of the run, processes first: they hold netns and pins.
// It goes on after an error, and is repeatable.
func (r *run) remove(ctx context.Context) error {
	err := errors.Join(
		removeCgroup(ctx, r.cgroup),
		unmountBelow(r.dir+"/"),
		removeNetns(r.netnsName("")),
		os.RemoveAll(r.dir),
	)
	r.owner.Close()
	return err
}

func (r *run) netnsName(name string) string { return prefix + r.id + "-" + name }

// removeNetns unmounts and removes the named netns that begin with prefix. Its
// devices go with a netns.
func removeNetns(prefix string) error {
	if err := unmountBelow(filepath.Join(netnsDir, prefix)); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(netnsDir, prefix+"*"))
	for _, f := range files {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

// unmountBelow unmounts what is mounted on paths with the prefix, last first.
func unmountBelow(prefix string) error {
	all, err := mountinfo.Read(mountinfo.Self)
	if err != nil {
		return err
	}
	var points []string
	for _, m := range all {
		if strings.HasPrefix(m.Point, prefix) {
			points = append(points, m.Point)
		}
	}
	slices.Reverse(points)
	var errs []error
	for _, p := range points {
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
