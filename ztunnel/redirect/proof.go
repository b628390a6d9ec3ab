// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// queryEffective is BPF_F_QUERY_EFFECTIVE of linux/bpf.h: the programs that
// run, not only those attached to this very cgroup.
const queryEffective = 1

// Above proves that our programs run for the sockets that are made in a cgroup2
// directory. It asks the kernel which programs are in effect there, which is
// the list that a connect() goes by; comparing paths would have to trust mounts
// and cgroup namespaces. A connect() from a process put there would prove no
// more, and counts against the pod's limits.
func (d *Datapath) Above(dir string) error {
	if err := onCgroup2(dir); err != nil {
		return err
	}
	cgroup, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range d.anchors {
		runs, err := a.inEffect(int(cgroup.Fd()))
		if err != nil {
			return fmt.Errorf("%s in cgroup %s: %w", a.name, dir, err)
		}
		if !runs {
			return fmt.Errorf("%s does not run in cgroup %s, which is not below -cgroup %s: the mesh would not see its connections; give -cgroup a directory above both",
				a.name, dir, d.opts.Cgroup)
		}
	}
	return nil
}

func (a *anchor) inEffect(cgroup int) (bool, error) {
	ours, err := objectID(a.prog.FD())
	if err != nil {
		return false, err
	}
	there, err := link.QueryPrograms(link.QueryOptions{Target: cgroup, Attach: a.at, QueryFlags: queryEffective})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(there.Programs, func(p link.AttachedProgram) bool { return uint32(p.ID) == ours }), nil
}

// AboveProcess is Above for the cgroup of a process.
func (d *Datapath) AboveProcess(pid int) error {
	path, err := cgroupOf(pid)
	if err != nil {
		return err
	}
	dir, err := cgroupDir(path)
	if err == nil {
		err = d.Above(dir)
	}
	if err != nil {
		return fmt.Errorf("process %d is in cgroup %s: %w", pid, path, err)
	}
	return nil
}

// AboveNode proves that -cgroup is above what every node has: its first process
// and, if it is configured and there, the kubelet.
func (d *Datapath) AboveNode() error {
	problems := []error{d.aboveFirst(1)}
	if d.opts.KubeletCgroup != "" {
		if err := d.Above(d.opts.KubeletCgroup); err != nil && !errors.Is(err, fs.ErrNotExist) {
			problems = append(problems, fmt.Errorf("the kubelet: %w", err))
		}
	}
	return errors.Join(problems...)
}

// aboveFirst proves that -cgroup is above process pid, if it is in the node's
// netns. If not, it is nobody of this node: a node that is a netns and a cgroup
// of a larger machine has no first process.
func (d *Datapath) aboveFirst(pid int) error {
	ns, err := netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil
	}
	defer ns.Close()
	if ns.Cookie() != d.opts.HostNetns {
		return nil
	}
	return d.AboveProcess(pid)
}

// ErrUnproven says that nothing of a pod was found to prove anything with.
var ErrUnproven = errors.New("no process and no cgroup of the pod is here yet, and -cgroup is not the root of cgroup2")

// AbovePod proves that our programs run for the sockets of a pod, before it is
// enrolled. uid is what the kubelet and the runtimes put into the names of the
// pod's cgroups. At CNI ADD the pod's cgroup is there without a process; on a
// host with both versions of cgroups there may be processes without a cgroup2
// of that name. All that is found must be below -cgroup. If that is the root of
// the hierarchy, there is nothing that is not.
func (d *Datapath) AbovePod(uid string) error {
	if d.aboveAll() {
		return d.Above(d.opts.Cgroup)
	}
	if len(uid) < 8 {
		return fmt.Errorf("pod UID %q is too short to search for: %w", uid, ErrUnproven)
	}
	names := []string{uid, strings.ReplaceAll(uid, "-", "_")} // the systemd driver's
	dirs, err := cgroupsOfPod(names)
	if err != nil {
		return err
	}
	pids, err := processesOfPod(names)
	if err != nil {
		return err
	}
	proofs := 0
	prove := func(err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENODEV) {
			return nil // it just ended
		}
		proofs++
		return err
	}
	for _, dir := range dirs {
		if err := prove(d.Above(dir)); err != nil {
			return err
		}
	}
	for _, pid := range pids {
		if err := prove(d.AboveProcess(pid)); err != nil {
			return err
		}
	}
	if proofs == 0 {
		return fmt.Errorf("pod %s: %w", uid, ErrUnproven)
	}
	return nil
}

// aboveAll says whether Options.Cgroup is the root of the hierarchy: only that
// has no type. The root of a cgroup namespace has one.
func (d *Datapath) aboveAll() bool {
	_, err := os.Stat(filepath.Join(d.opts.Cgroup, "cgroup.type"))
	return errors.Is(err, fs.ErrNotExist)
}
