// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Confine has all threads of the processes run on the first n of the CPUs that the first
// process may use, until release is called. Threads that come later inherit it.
func Confine(n int, pids ...int) (release func() error, err error) {
	var all, few unix.CPUSet
	if len(pids) == 0 {
		return nil, errors.New("confine: no process")
	}
	if err := unix.SchedGetaffinity(pids[0], &all); err != nil {
		return nil, fmt.Errorf("read the CPUs of process %d: %w", pids[0], err)
	}
	for cpu := 0; few.Count() < n; cpu++ {
		if cpu >= 8*len(all)*8 {
			return nil, fmt.Errorf("confine to %d CPUs: process %d may use %d", n, pids[0], all.Count())
		}
		if all.IsSet(cpu) {
			few.Set(cpu)
		}
	}
	release = func() error { return setAffinity(&all, pids) }
	if err := setAffinity(&few, pids); err != nil {
		return nil, errors.Join(err, release())
	}
	return release, nil
}

// setAffinity goes over the threads twice: one may have come during the first time, made
// by a thread that was not set yet. What has ended is no matter.
func setAffinity(set *unix.CPUSet, pids []int) error {
	for range 2 {
		for _, pid := range pids {
			tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
			for _, task := range tasks {
				tid, err := strconv.Atoi(task.Name())
				if err != nil {
					continue
				}
				if err := unix.SchedSetaffinity(tid, set); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("set the CPUs of thread %d of process %d: %w", tid, pid, err)
				}
			}
		}
	}
	return nil
}
