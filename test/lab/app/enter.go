// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// enter becomes a command that is a process of the pod: in its netns, and in
// its cgroup, without which nothing is steered.
func enter(args []string) error {
	flags := flag.NewFlagSet("enter", flag.ExitOnError)
	netns := flags.String("netns", "", "path of the netns; required")
	cgroup := flags.String("cgroup", "", "directory of the cgroup; required")
	_ = flags.Parse(args)
	if *netns == "" || *cgroup == "" || flags.NArg() == 0 {
		return errors.New("enter: want -netns, -cgroup and a command")
	}
	path, err := exec.LookPath(flags.Arg(0))
	if err != nil {
		return err
	}
	procs := filepath.Join(*cgroup, "cgroup.procs")
	if err := os.WriteFile(procs, []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
		return fmt.Errorf("join the cgroup: %w", err)
	}
	ns, err := os.Open(*netns)
	if err != nil {
		return err
	}
	// execve keeps the netns of the thread that calls it.
	runtime.LockOSThread()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter netns %s: %w", *netns, err)
	}
	return syscall.Exec(path, flags.Args(), os.Environ())
}
