// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

// Kubelet returns why no probe is exempt: nil while the kubelet's cgroup is
// known, or if Options.KubeletCgroup is empty. Verify looks for it again, so
// that a kubelet which comes later, or comes back, is known within one call.
func (d *Datapath) Kubelet() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.noKubelet
}

// followKubelet tells the programs which cgroup is the kubelet's now. A kubelet
// that is started again has another one at the same path, and until it is
// there, nobody is exempt. It requires that d.mu is held.
func (d *Datapath) followKubelet() error {
	id, err := d.opts.kubelet()
	if err != nil {
		id = 0
	}
	d.noKubelet = err
	if id == d.kubelet {
		return nil
	}
	if err := d.mesh.KubeletCgroup.Set(id); err != nil {
		return fmt.Errorf("set the kubelet's cgroup: %w", err)
	}
	d.kubelet = id
	return nil
}

// verifyProbePorts makes the probe ports of the pods what they should be, and
// returns what was wrong. It requires that d.mu is held.
func (d *Datapath) verifyProbePorts() (repaired []string, err error) {
	have, err := keys[meshPodPort](d.mesh.ProbePorts)
	if err != nil {
		return nil, err
	}
	want, wrong := make(map[meshPodPort]bool), make(map[netns.Cookie]bool)
	note := func(key meshPodPort, how string) {
		repaired = append(repaired, fmt.Sprintf("probe port %d of netns %d was %s", wirePort(key.Port), key.Netns, how))
		wrong[netns.Cookie(key.Netns)] = true
	}
	for cookie, p := range d.pods {
		for _, port := range p.ProbePorts {
			key := meshPodPort{Netns: uint64(cookie), Port: wirePort(port)}
			if want[key] = true; p.inbound && !have[key] {
				note(key, "removed")
			}
		}
	}
	for key := range have {
		if p := d.pods[netns.Cookie(key.Netns)]; p != nil && p.inbound && !want[key] {
			note(key, "added")
		}
	}
	var problems []error
	for cookie := range wrong {
		problems = append(problems, d.fillProbePorts(d.pods[cookie].Sandbox))
	}
	return repaired, errors.Join(problems...)
}

// kubelet returns the id of kubelet's cgroup, which is its inode number. An
// error that is fs.ErrNotExist says that there is none now.
func (o *Options) kubelet() (uint64, error) {
	if o.KubeletCgroup == "" {
		return 0, nil
	}
	if o.HostNetns == 0 {
		return 0, errors.New("no HostNetns with KubeletCgroup: kubelet's connections come from the node's netns")
	}
	there, err := nearest(o.KubeletCgroup)
	if err != nil {
		return 0, fmt.Errorf("-kubelet-cgroup: %w", err)
	}
	if err := onCgroup2(there); err != nil {
		return 0, fmt.Errorf("-kubelet-cgroup: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Stat(o.KubeletCgroup, &st); err != nil {
		return 0, fmt.Errorf("-kubelet-cgroup: %w", &fs.PathError{Op: "stat", Path: o.KubeletCgroup, Err: err})
	}
	if err := o.setsKubeletApart(); err != nil {
		return 0, err
	}
	return st.Ino, nil
}

// setsKubeletApart checks where KubeletCgroup is: a connection made above
// Cgroup is not seen, and in a cgroup that holds the pods everyone is kubelet.
func (o *Options) setsKubeletApart() error {
	above, err := isBelow(o.Cgroup, o.KubeletCgroup)
	if err != nil {
		return err
	}
	if above {
		return fmt.Errorf("-kubelet-cgroup %s holds all of -cgroup %s: every process of the node would pass for kubelet; give kubelet a cgroup of its own",
			o.KubeletCgroup, o.Cgroup)
	}
	seen, err := isBelow(o.KubeletCgroup, o.Cgroup)
	if err != nil {
		return err
	}
	if !seen {
		return fmt.Errorf("-kubelet-cgroup %s is not below -cgroup %s: its connections would not be seen", o.KubeletCgroup, o.Cgroup)
	}
	return nil
}
