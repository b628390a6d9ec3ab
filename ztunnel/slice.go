// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// slice is for how long the kernel lets a thread of ours run while another wants its
// processor: the shortest there is. The kernel's own choice is 1.4 ms on two processors and
// twice that on eight, and a small message waits for that long at each of its hops where
// bulk keeps the processors busy, its apps' or ours. A thread with a short slice also waits
// less for those with long ones; what it gets of a processor is the same. Where a message
// waits nonetheless stands in docs/benchmarks.md, "Behind bulk".
const slice = 100 * time.Microsecond

// shortenSlices gives all threads of this process that slice, and so all that they will
// start. Kernels before Linux 6.12 know no slices of a thread's own and ignore it. A
// thread that an operator gave another policy (chrt) keeps it.
func shortenSlices() error {
	for {
		all, err := threads()
		if err != nil {
			return err
		}
		changed := false
		for _, thread := range all {
			did, err := shortenSlice(thread)
			if err != nil {
				return fmt.Errorf("slice of thread %d: %w", thread, err)
			}
			changed = changed || did
		}
		if !changed { // and nobody was left who could have started one with the old slice
			return nil
		}
	}
}

// shortenSlice reports whether the thread has another slice now.
func shortenSlice(thread int) (changed bool, err error) {
	before, err := unix.SchedGetAttr(thread, 0)
	if errors.Is(err, unix.ESRCH) {
		return false, nil
	}
	if err != nil || before.Policy != unix.SCHED_NORMAL || before.Runtime == uint64(slice) {
		return false, err
	}
	attr := *before
	attr.Runtime = uint64(slice)
	if err := unix.SchedSetAttr(thread, &attr, 0); err != nil {
		return false, err
	}
	after, err := unix.SchedGetAttr(thread, 0)
	return err == nil && after.Runtime == uint64(slice), err
}

// threads are those of this process.
func threads() (list []int, err error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		id, err := strconv.Atoi(e.Name())
		if err != nil {
			return nil, fmt.Errorf("/proc/self/task/%s: %w", e.Name(), err)
		}
		list = append(list, id)
	}
	return list, nil
}
