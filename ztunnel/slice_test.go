// SPDX-License-Identifier: Apache-2.0

package ztunnel

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAllThreadsAndThoseToComeHaveShortSlices(t *testing.T) {
	if err := shortenSlices(); err != nil {
		t.Fatal(err)
	}
	started := make(chan int)
	stop := make(chan struct{})
	defer close(stop)
	for range 4 { // each is a thread of its own
		go func() {
			runtime.LockOSThread()
			started <- unix.Gettid()
			<-stop
		}()
	}
	ours := map[int]bool{}
	for range 4 {
		ours[<-started] = true
	}
	all, err := threads()
	if err != nil {
		t.Fatal(err)
	}
	for _, thread := range all {
		attr, err := unix.SchedGetAttr(thread, 0)
		switch {
		case errors.Is(err, unix.ESRCH): // of another test, and gone
		case err != nil:
			t.Error(err)
		case attr.Policy != unix.SCHED_NORMAL && ours[thread]:
			t.Skipf("this process has the scheduling policy %d, whose threads keep it", attr.Policy)
		case attr.Policy != unix.SCHED_NORMAL: // of another test
		case attr.Runtime == 0:
			t.Skip("this kernel has no slices of threads, before Linux 6.12")
		case attr.Runtime != uint64(slice):
			t.Errorf("thread %d of %d has a slice of %d ns, want %v", thread, len(all), attr.Runtime, slice)
		}
		delete(ours, thread)
	}
	if len(ours) > 0 {
		t.Errorf("threads %v are not among those of the process", ours)
	}
	if again, err := shortenSlice(unix.Gettid()); again || err != nil {
		t.Errorf("shortened again: %v, %v", again, err)
	}
}

func TestAThreadWithAnotherPolicyKeepsIt(t *testing.T) {
	runtime.LockOSThread() // and ends with this goroutine
	self := unix.Gettid()
	batch := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_BATCH}
	if err := unix.SchedSetAttr(self, &batch, 0); err != nil {
		t.Fatal(err)
	}
	if changed, err := shortenSlice(self); changed || err != nil {
		t.Errorf("changed %v, %v", changed, err)
	}
	if attr, err := unix.SchedGetAttr(self, 0); err != nil || attr.Policy != unix.SCHED_BATCH {
		t.Errorf("policy %+v, %v", attr, err)
	}
}
