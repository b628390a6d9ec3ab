// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"fmt"

	"github.com/culvert-mesh/culvert/ztunnel/redirect"
)

// hooks is what is known of whether the programs of connect() run for a pod's
// processes, which is so if they are in a cgroup below -cgroup. A cgroup cannot be
// moved: what was proven once stays so, as long as the programs are attached.
type hooks int

const (
	unproven hooks = iota // neither a cgroup nor a process of the pod was found yet
	proven
	astray // one was found that the programs do not see: it connects in plaintext
)

// proveHooks says whether the programs run for the processes of s. The error is
// of astray, and names both cgroups. A cgroup that bears the pod's UID is there
// before CNI ADD where the kubelet made it. Where nothing bears it, a process in
// the pod's netns counts.
func (p *Pods) proveHooks(s sandbox, running func() []process) (hooks, error) {
	err := p.Datapath.AbovePod(s.PodUID)
	if err == nil {
		return proven, nil
	}
	if !errors.Is(err, redirect.ErrUnproven) {
		return astray, fmt.Errorf("its connections would not be steered: %w", err)
	}
	found := unproven
	for _, proc := range running() {
		if proc.netns != s.Inode {
			continue
		}
		if err := p.Datapath.AboveProcess(proc.pid); err == nil {
			found = proven
		} else if again, gone := readProcess(proc.dir); gone == nil && again.start == proc.start {
			return astray, fmt.Errorf("its connections are not steered: %w", err)
		}
	}
	return found, nil
}

// watchHooks looks at a member of which nothing was proven yet, or which was
// found astray: it may be moved. pod.mu is held.
func (p *Pods) watchHooks(pod *pod, running func() []process) {
	if pod.hooks == proven {
		return
	}
	before := pod.astray
	found, err := p.proveHooks(pod.sandbox(), running)
	pod.hooks, pod.astray = found, ""
	if err != nil {
		pod.astray = err.Error()
	}
	switch {
	case pod.astray != "" && pod.astray != before:
		p.Log.Error("a pod of the mesh is not protected: the programs do not run for its processes", logPod, pod.String(), logError, err)
	case pod.astray == "" && before != "":
		p.Log.Info("the programs run for the processes of a pod again", logPod, pod.String())
	}
}
