// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf/pin"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

// bpffsPoint is where the bpffs of dir is mounted, so that it can be mounted
// there again.
func bpffsPoint(dir string) (string, error) {
	dir, err := nearest(dir)
	if err != nil {
		return "", err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return "", err
	}
	found, err := mountinfo.OfType("bpf")
	if err != nil {
		return "", err
	}
	point := ""
	for _, m := range found {
		if strings.HasPrefix(dir+"/", strings.TrimSuffix(m.Point, "/")+"/") && len(m.Point) > len(point) {
			point = m.Point
		}
	}
	if point == "" {
		return "", fmt.Errorf("no mount of a bpffs holds %s", dir)
	}
	return point, nil
}

// keepPins sees to it that Options.BPFFS is on a bpffs and locked. If the bpffs
// was unmounted, this process alone holds what it steers with: if it ended, pods
// would be let out in plaintext. So it is mounted again.
func (d *Datapath) keepPins() (wrong string, err error) {
	if onBPFFS(d.opts.BPFFS) != nil {
		if err := unix.Mount("bpf", d.point, "bpf", 0, "mode=0700"); err != nil {
			return "", fmt.Errorf("the bpffs on %s was unmounted, pods would be let out with the end of this process: mount it again: %w", d.point, err)
		}
		wrong = "bpffs on " + d.point + " was unmounted"
	}
	return wrong, d.lock.Keep(d.move)
}

// move pins what is pinned in the former directory in the present one. Our lock
// keeps a bpffs alive that was unmounted. What this process steers, Verify would
// pin again; of pods that an earlier one steered, pins are all there is.
func (d *Datapath) move(former string) error {
	if err := d.pins.make(); err != nil {
		return err
	}
	var problems []error
	err := filepath.WalkDir(former+"/", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it was removed, with all that was in it
		}
		if err != nil || e.IsDir() {
			return err
		}
		problems = append(problems, again(path, filepath.Join(d.opts.BPFFS, strings.TrimPrefix(path, former))))
		return nil
	})
	return errors.Join(append(problems, err)...)
}

// again pins an object elsewhere, too.
func again(from, to string) error {
	object, err := pin.Load(from, nil)
	if err != nil {
		return err
	}
	defer object.Close()
	if err := repin(object, to); err != nil {
		return fmt.Errorf("pin %s: %w", to, err)
	}
	return nil
}
