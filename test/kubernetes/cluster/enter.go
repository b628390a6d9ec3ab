// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

// Enter replaces this process by a command in all namespaces of a node, which finds the
// node's programs, such as ctr, by their names.
func Enter(cluster, node string, command []string) error {
	pid, err := NodePID(cluster, node)
	if err != nil {
		return err
	}
	nsenter, err := exec.LookPath("nsenter")
	if err != nil {
		return err
	}
	if err := os.Setenv("PATH", nodePath()); err != nil {
		return err
	}
	args := append([]string{"nsenter", "--all", "--target=" + strconv.Itoa(pid), "--"}, command...)
	return syscall.Exec(nsenter, args, os.Environ())
}

// nodePath is the PATH of a node's processes.
func nodePath() string { return insideBinaries + ":" + os.Getenv("PATH") }
