// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// kernelwide are the sysctls that the kubelet insists on setting and that all network
// namespaces share. In a node they are ordinary files.
var kernelwide = []string{"vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops"}

// mountNode makes the node's root out of an overlay of this machine's, and enters it.
func (c Config) mountNode(n node, all []hierarchy) error {
	root := c.nodeDir(n.Name, "root")
	m := &mounts{root: root}
	m.mount("overlay", "/", "overlay", "lowerdir=/,upperdir="+c.nodeDir(n.Name, "upper")+",workdir="+c.nodeDir(n.Name, "work"))
	m.mount("proc", "/proc", "proc", "")
	m.mount("sysfs", "/sys", "sysfs", "")
	m.bind("/dev", "/dev", unix.MS_REC)
	m.mount("tmpfs", "/run", "tmpfs", "mode=755")
	m.mount("bpf", "/sys/fs/bpf", "bpf", "")
	for dir, inside := range shared {
		m.bind(c.nodeDir(n.Name, dir), inside, 0)
	}
	m.bind(c.Binaries, insideBinaries, 0)
	m.cgroups(c.Cgroups, all)
	for _, name := range kernelwide {
		m.hide(filepath.Join("/proc/sys", name), c.nodeDir(n.Name, "sysctl."+strings.ReplaceAll(name, "/", ".")))
	}
	if m.err != nil {
		return m.err
	}
	return enterRoot(root)
}

// enterRoot makes root the root of this mount namespace, and shares its mounts with the
// namespaces of containers, which ask for that.
func enterRoot(root string) error {
	err := errors.Join(
		os.Chdir(root),
		os.Mkdir(".machine", 0o700),
		unix.PivotRoot(".", ".machine"),
		os.Chdir("/"),
		unix.Unmount("/.machine", unix.MNT_DETACH),
		os.Remove("/.machine"),
	)
	if err != nil {
		return fmt.Errorf("enter the root: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	return nil
}

// mounts mounts below a root, until an error.
type mounts struct {
	root string
	err  error
}

func (m *mounts) mount(what, where, fsType, options string) {
	m.do(what, where, fsType, 0, options)
}

func (m *mounts) bind(what, where string, flags uintptr) {
	m.do(what, where, "", unix.MS_BIND|flags, "")
}

func (m *mounts) do(what, where, fsType string, flags uintptr, options string) {
	if m.err != nil {
		return
	}
	at := filepath.Join(m.root, where)
	if err := os.MkdirAll(at, 0o755); err != nil {
		m.err = err
	} else if err := unix.Mount(what, at, fsType, flags, options); err != nil {
		m.err = fmt.Errorf("mount %s (%s) at %s: %w", what, fsType, where, err)
	}
}

// hide puts a file with the present value in a sysctl's place.
func (m *mounts) hide(where, file string) {
	if m.err != nil {
		return
	}
	value, err := os.ReadFile(where)
	if err == nil {
		err = os.WriteFile(file, value, 0o644)
	}
	if err == nil {
		err = unix.Mount(file, filepath.Join(m.root, where), "", unix.MS_BIND, "")
	}
	if err != nil {
		m.err = fmt.Errorf("hide %s: %w", where, err)
	}
}

// cgroups mounts the hierarchies anew: a mount shows the cgroup namespace of the thread
// that made it, so the node sees its own subtrees only.
func (m *mounts) cgroups(flavour string, all []hierarchy) {
	const dir = "/sys/fs/cgroup"
	if flavour == "v2" {
		m.mount("cgroup2", dir, "cgroup2", "")
		return
	}
	m.mount("tmpfs", dir, "tmpfs", "mode=755")
	for _, h := range all {
		m.mount(h.Type, filepath.Join(dir, filepath.Base(h.Point)), h.Type, h.Options)
	}
}
