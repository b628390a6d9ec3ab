// SPDX-License-Identifier: Apache-2.0

package proc

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAProcessIsConfinedUntilReleased(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	cpus := func() int {
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(cmd.Process.Pid, &set); err != nil {
			t.Fatal(err)
		}
		return set.Count()
	}
	all := cpus()
	release, err := Confine(1, cmd.Process.Pid)
	if err != nil || cpus() != 1 {
		t.Fatalf("on %d CPUs: %v", cpus(), err)
	}
	if err := release(); err != nil || cpus() != all {
		t.Errorf("released, it has %d of %d CPUs: %v", cpus(), all, err)
	}
	if _, err := Confine(all+1, cmd.Process.Pid); err == nil || cpus() != all {
		t.Errorf("more CPUs than there are: %v; it has %d", err, cpus())
	}
}

// A proxy has many threads. This program has some, too.
func TestAllThreadsOfAProcessAreConfined(t *testing.T) {
	release, err := Confine(1, os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", os.Getpid()))
	if err != nil || len(tasks) < 2 {
		t.Errorf("%d threads: %v", len(tasks), err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		var set unix.CPUSet
		if err := unix.SchedGetaffinity(tid, &set); err == nil && set.Count() != 1 { // or it has ended
			t.Errorf("thread %d is on %d CPUs", tid, set.Count())
		}
	}
	if err := release(); err != nil {
		t.Error(err)
	}
}
