// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// sysctls are set to 1 in a pod's netns. The map routed has a bit for each, in
// this order: append only.
var sysctls = []struct {
	path     string
	optional func() bool // it may be missing
}{
	{"net/ipv4/tcp_fwmark_accept", never}, // the app's socket answers with our mark
	{"net/ipv4/fwmark_reflect", never},    // and so does a port without one
	{"net/ipv6/fwmark_reflect", func() bool { return !hasIPv6() }},
	{"net/ipv4/tcp_migrate_req", func() bool { return true }}, // since Linux 5.14
}

func never() bool { return false }

// openSysctls lets this process write sysctls. A container that is not privileged
// has a read-only mount on /proc/sys, in a mount namespace of its own: with
// CAP_SYS_ADMIN it may be changed there, and nobody else sees that.
func openSysctls() error {
	const dir = "/proc/sys"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("statfs %s: %w", dir, err)
	}
	if st.Flags&unix.ST_RDONLY == 0 {
		return nil
	}
	const flags = unix.MS_REMOUNT | unix.MS_BIND | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("", dir, "", flags, ""); err != nil {
		return fmt.Errorf("make %s writable, for the sysctls of pods: %w", dir, err)
	}
	return nil
}

// sysctlNeeds runs inside the netns.
func (d *Datapath) sysctlNeeds(cookie netns.Cookie) (needs []need, err error) {
	for i, s := range sysctls {
		text, err := os.ReadFile("/proc/sys/" + s.path)
		if errors.Is(err, fs.ErrNotExist) && s.optional() {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", s.path, err)
		}
		needs = append(needs, need{
			name: "sysctl " + s.path,
			met:  strings.TrimSpace(string(text)) != "0",
			meet: func() error { return d.setSysctl(cookie, i) },
		})
	}
	return needs, nil
}

// setSysctl remembers that it was not set before it sets it.
func (d *Datapath) setSysctl(cookie netns.Cookie, i int) error {
	set, err := d.setByUs(cookie)
	if err != nil {
		return err
	}
	if err := d.mesh.Routed.Put(uint64(cookie), set|1<<i); err != nil {
		return fmt.Errorf("remember %s: %w", sysctls[i].path, err)
	}
	return writeSysctl(sysctls[i].path, "1")
}

// restoreSysctls sets back those that Route set. It runs inside the netns.
func (d *Datapath) restoreSysctls(cookie netns.Cookie) error {
	set, err := d.setByUs(cookie)
	if err != nil {
		return err
	}
	for i, s := range sysctls {
		if set&(1<<i) == 0 {
			continue
		}
		if err := writeSysctl(s.path, "0"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if set == 0 {
		return nil
	}
	return d.mesh.Routed.Put(uint64(cookie), uint32(0))
}

// noteRouted remembers that Route changes a netns.
func (d *Datapath) noteRouted(cookie netns.Cookie) error {
	err := d.mesh.Routed.Update(uint64(cookie), uint32(0), ebpf.UpdateNoExist)
	if err != nil && !errors.Is(err, ebpf.ErrKeyExist) {
		return fmt.Errorf("remember what is routed: %w", err)
	}
	return nil
}

// Routed reports whether a netns has routing by this run or an earlier one.
func (d *Datapath) Routed(cookie netns.Cookie) bool {
	var bits uint32
	return d.mesh.Routed.Lookup(uint64(cookie), &bits) == nil
}

// ForgetRoute is Unroute for a netns that is gone.
func (d *Datapath) ForgetRoute(cookie netns.Cookie) error { return del(d.mesh.Routed, uint64(cookie)) }

func (d *Datapath) setByUs(cookie netns.Cookie) (bits uint32, err error) {
	err = d.mesh.Routed.Lookup(uint64(cookie), &bits)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, fmt.Errorf("look up what was routed: %w", err)
	}
	return bits, nil
}

func writeSysctl(path, value string) error {
	if err := os.WriteFile("/proc/sys/"+path, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s: %w", path, err)
	}
	return nil
}
