// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// boundCommand is loadCommand with bounds: the attacker shares the processors with
// its victim, as in life it would not, and what it computes itself must not be what
// the victim feels. So it has the last processor only, when nobody else wants it.
const boundCommand = "bound-load"

func bound(path string) error {
	runtime.LockOSThread() // what follows is of the thread, and all that come from it
	self, err := os.Executable()
	if err == nil {
		err = errors.Join(lastCPU(), unix.Setpriority(unix.PRIO_PROCESS, 0, 19))
	}
	if err != nil {
		return err
	}
	return unix.Exec(self, []string{self, loadCommand, path}, os.Environ())
}

// lastCPU restricts the thread to the last processor that it may have.
func lastCPU() error {
	var may, last unix.CPUSet
	if err := unix.SchedGetaffinity(0, &may); err != nil {
		return err
	}
	cpu, left := 0, may.Count()
	for ; left > 0; cpu++ {
		if may.IsSet(cpu) {
			left--
		}
	}
	last.Set(cpu - 1)
	return unix.SchedSetaffinity(0, &last)
}
