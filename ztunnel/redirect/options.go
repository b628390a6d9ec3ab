// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Options say where the programs are attached and what they leave alone.
type Options struct {
	// BPFFS is a directory on a bpffs for the pins of this instance. It is
	// created, for root only. Two instances on one kernel need two; required.
	BPFFS string
	// Cgroup is the cgroup2 directory above kubelet, ztunnel and the pods:
	// only sockets made below it are seen; required.
	Cgroup string
	// KubeletCgroup is kubelet's cgroup2 directory. Connections to a pod's
	// probe ports from it, and not from below it, reach the pod. It may come
	// later, and another may take its place; default: no probe is exempt.
	KubeletCgroup string
	// HostNetns is the node's netns, where kubelet runs; required with
	// KubeletCgroup.
	HostNetns netns.Cookie
	// ExcludeCIDRs are destinations that pods reach without ztunnel; default none.
	ExcludeCIDRs []netip.Prefix
	// StandIns are prefixes of addresses that nobody has, one of each family, in
	// which each destination of a pod gets an address inside the pod; default
	// 240.0.0.0/8 and 100:0:0:1::/64.
	StandIns []netip.Prefix
	// ExcludePorts are destination ports likewise; default none.
	ExcludePorts []uint16
}

// validate returns the prefixes of stand-ins.
func (o *Options) validate() ([]netip.Prefix, error) {
	var problems []error
	if o.BPFFS == "" {
		problems = append(problems, errors.New("BPFFS is required"))
	} else if err := onBPFFS(o.BPFFS); err != nil {
		problems = append(problems, err)
	}
	if o.Cgroup == "" {
		problems = append(problems, errors.New("the attach Cgroup is required"))
	} else if err := onCgroup2(o.Cgroup); err != nil {
		problems = append(problems, fmt.Errorf("-cgroup: %w", err))
	}
	for _, p := range o.ExcludeCIDRs {
		if !p.IsValid() {
			problems = append(problems, fmt.Errorf("ExcludeCIDRs: invalid prefix %v", p))
		}
	}
	standIns, err := StandIns(o.StandIns)
	problems = append(problems, err, DisjointStandIns(standIns, o.ExcludeCIDRs, "excluded destinations"))
	if _, err := o.kubelet(); err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, err)
	}
	return standIns, errors.Join(problems...)
}

// onBPFFS asks the nearest directory that exists, as ours is yet to be made.
func onBPFFS(dir string) error {
	dir, err := nearest(dir)
	if err != nil {
		return err
	}
	is, err := isOn(dir, unix.BPF_FS_MAGIC)
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("-bpffs: %s is not on a bpf file system: mount -t bpf bpf %[1]s", dir)
	}
	return nil
}

func onCgroup2(dir string) error {
	is, err := isOn(dir, unix.CGROUP2_SUPER_MAGIC)
	if err != nil {
		return err
	}
	if !is {
		return fmt.Errorf("%s is not on a cgroup2 file system: %s", dir, cgroup2Hint())
	}
	return nil
}

// nearest is dir, or the nearest directory above it that exists.
func nearest(dir string) (string, error) {
	for {
		_, err := os.Stat(dir)
		if err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", err
		}
		dir = parent
	}
}

func isOn(dir string, magic int64) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return int64(st.Type) == magic, nil
}

// isBelow says whether dir is top or below it, by identity: paths may lead
// through other mounts of the same hierarchy.
func isBelow(dir, top string) (bool, error) {
	var want unix.Stat_t
	if err := unix.Stat(top, &want); err != nil {
		return false, fmt.Errorf("stat %s: %w", top, err)
	}
	for {
		var st, parent unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil {
			return false, fmt.Errorf("stat %s: %w", dir, err)
		}
		if st.Ino == want.Ino && st.Dev == want.Dev {
			return true, nil
		}
		up := dir + "/.."
		if err := unix.Stat(up, &parent); err != nil {
			return false, fmt.Errorf("stat %s: %w", up, err)
		}
		if parent.Dev != st.Dev || parent.Ino == st.Ino {
			return false, nil // out of the mount
		}
		dir = up
	}
}
