// SPDX-License-Identifier: Apache-2.0

package netns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// SeeNodesCgroups has this process name cgroups as the node does. Where the node has
// cgroup2 alone, container runtimes start each container in a cgroup namespace of its
// own: there a pod's cgroup reads /../../podUID, from which nobody can tell where that is
// (cgroup_namespaces(7)). A namespace is a thread's, and the program that a thread
// executes has it in all of its threads; so this does not return if there is one to enter.
func SeeNodesCgroups() error {
	const node = "/proc/1/ns/cgroup" // with hostPID, that of the node
	own, err := os.Readlink("/proc/self/ns/cgroup")
	if err != nil {
		return err
	}
	theirs, err := os.Readlink(node)
	if err != nil || theirs == own {
		return nil // of missing privileges others know more to say
	}
	runtime.LockOSThread()
	ns, err := os.Open(node)
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("enter the node's cgroup namespace, %s: %w", node, err)
	}
	return os.NewSyscallError("execve", unix.Exec("/proc/self/exe", os.Args, os.Environ()))
}
