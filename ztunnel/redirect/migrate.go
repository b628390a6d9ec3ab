// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// layout is the version of what is pinned, and the name of its directory. It
// changes with a key, a value or a size of bpf/mesh.h.
const layout = 2

// former is a directory of pins that an earlier version of Culvert made. Its
// pods are taken over in place, in this order:
//
//	maps    each is pinned in our directory, too, or copied into one of ours
//	links   likewise, so that there is never a second one beside them
//	load    our programs, with those maps; then what v1 did not remember of its pods
//	attach  each link runs our program from then on, in one step
//	drop    the former pins: links first, maps after them
//
// At each point between, either version's programs find the pods in their maps,
// and as no ztunnel runs, refuse them. Each step may be done again; a process
// that dies leaves the rest to the next, or to one of the earlier version.
type former struct {
	pins
	version int
	maps    map[string]carry
}

// carry takes over one map, from its pin to ours, which spec describes.
type carry func(from, to string, spec *ebpf.MapSpec) error

// migrations are the layouts that we can take over, with what becomes of each
// of our maps.
var migrations = map[int]map[string]carry{1: fromV1}

// formers finds what earlier versions left below root, the latest first. A
// layout that we do not know is refused: its pods stay as they are.
func formers(root string) ([]former, error) {
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list layouts of pins: %w", err)
	}
	var found []former
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), "v")
		version, err := strconv.Atoi(digits)
		if !ok || err != nil || version == layout {
			continue
		}
		f := former{pinsOf(root, version), version, migrations[version]}
		any, err := f.any()
		if err != nil {
			return nil, err
		}
		switch {
		case f.maps != nil:
			found = append(found, f)
		case any && version > layout:
			return nil, fmt.Errorf("%s holds pins of a newer version of Culvert, which this one cannot take over; pods stay as they are: start the newer one, or drain the node and remove %[1]s", f.dir)
		case any:
			return nil, fmt.Errorf("%s holds pins of an older version of Culvert, which this one cannot take over; pods stay as they are: start a version between the two, or drain the node and remove %[1]s", f.dir)
		}
	}
	slices.SortFunc(found, func(a, b former) int { return b.version - a.version })
	return found, nil
}

// any reports whether anything is pinned.
func (p pins) any() (bool, error) {
	found := false
	err := filepath.WalkDir(p.dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = true
			return fs.SkipAll
		}
		return err
	})
	return found, err
}

// carryMaps takes the maps of f over.
func (d *Datapath) carryMaps(f former, specs map[string]*ebpf.MapSpec) (steps []func() error) {
	for name, carry := range f.maps {
		steps = append(steps, func() error {
			from := filepath.Join(f.dir, name)
			if !exists(from) {
				return nil
			}
			if err := carry(from, filepath.Join(d.pins.dir, name), specs[name]); err != nil {
				return fmt.Errorf("take over map %s of layout v%d: %w", name, f.version, err)
			}
			return nil
		})
	}
	return steps
}

// carryLinks takes the links of f over, those of hooks that we have and those
// of pods. If we have one of our own, as after a downgrade, dropFormer detaches f's.
func (d *Datapath) carryLinks(f former) (steps []func() error, err error) {
	for _, dir := range []struct{ from, to string }{{f.links, d.pins.links}, {f.pods, d.pins.pods}} {
		names, err := pinsIn(dir.from)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			_, isPod := parseCookie(name)
			if !isPod && !slices.Contains(hookNames, name) {
				continue
			}
			steps = append(steps, func() error {
				to := filepath.Join(dir.to, name)
				if exists(to) || !isLink(filepath.Join(dir.from, name)) {
					return nil
				}
				return again(filepath.Join(dir.from, name), to)
			})
		}
	}
	return steps, nil
}

// dropFormer removes the pins of f. A link that we did not take over is detached: it
// would steer beside ours.
func (d *Datapath) dropFormer(f former) (steps []func() error, err error) {
	for _, dir := range []string{f.links, f.pods} {
		names, err := pinsIn(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			steps = append(steps, func() error { return d.dropLink(filepath.Join(dir, name)) })
		}
	}
	return append(steps, f.remove), nil
}

func (d *Datapath) dropLink(path string) error {
	taken, err := linkIDs(d.pins.links, d.pins.pods)
	if err != nil {
		return err
	}
	l, err := link.LoadPinnedLink(path, nil)
	if err == nil {
		defer l.Close()
		info, err := l.Info()
		if err == nil && !taken[info.ID] {
			err = l.Detach()
		}
		if err != nil && !errors.Is(err, unix.ENOLINK) {
			return fmt.Errorf("detach former link %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove former pin: %w", err)
	}
	return nil
}

// linkIDs are the links that are pinned in the directories.
func linkIDs(dirs ...string) (map[link.ID]bool, error) {
	ids := make(map[link.ID]bool)
	for _, dir := range dirs {
		names, err := pinsIn(dir)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			l, err := link.LoadPinnedLink(filepath.Join(dir, name), nil)
			if err != nil {
				continue // no link, or none any more
			}
			info, err := l.Info()
			l.Close()
			if err != nil {
				return nil, fmt.Errorf("ask for link %s: %w", name, err)
			}
			ids[info.ID] = true
		}
	}
	return ids, nil
}

func pinsIn(dir string) (names []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list pins: %w", err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func isLink(path string) bool {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// same is for a map whose layout did not change: it is pinned in both places.
// If ours is another one, which happens when the earlier version ran again after
// we did, its entries are added to ours: a pod too many is refused, one too few
// is let out.
func same(from, to string, spec *ebpf.MapSpec) error {
	old, err := ebpf.LoadPinnedMap(from, nil)
	if err != nil {
		return err
	}
	defer old.Close()
	if err := spec.Compatible(old); err != nil {
		return err
	}
	if !exists(to) {
		return again(from, to)
	}
	if samePinned(old, to) {
		return nil
	}
	ours, err := ebpf.LoadPinnedMap(to, nil)
	if err != nil {
		return err
	}
	defer ours.Close()
	if spec.Type == ebpf.SkStorage {
		return nil // what it knows is of sockets of a process that ended
	}
	return merge(ours, old)
}

func merge(into, from *ebpf.Map) error {
	key, value := make([]byte, from.KeySize()), make([]byte, from.ValueSize())
	entries := from.Iterate()
	for entries.Next(&key, &value) {
		if err := into.Put(key, value); err != nil {
			return err
		}
	}
	if err := entries.Err(); err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return err
	}
	return nil
}

// converted is for a map whose layout changed: a new one is filled, and pinned
// when it is complete.
func converted(fill func(ours, old *ebpf.Map) error) carry {
	return func(from, to string, spec *ebpf.MapSpec) error {
		if exists(to) {
			return nil
		}
		old, err := ebpf.LoadPinnedMap(from, nil)
		if err != nil {
			return err
		}
		defer old.Close()
		spec = spec.Copy()
		spec.Pinning = ebpf.PinNone
		ours, err := ebpf.NewMap(spec)
		if err != nil {
			return err
		}
		defer ours.Close()
		if err := fill(ours, old); err != nil {
			return err
		}
		return repin(ours, to)
	}
}

// emptied is for a map whose entries are worth nothing without the process or
// the connection they are of. Load makes the new one.
func emptied(string, string, *ebpf.MapSpec) error { return nil }
