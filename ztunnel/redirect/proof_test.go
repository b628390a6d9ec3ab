// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cilium/ebpf/link"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/mountinfo"
)

const podUID = "0f8fad5b-d9cb-469f-a165-70867728950e"

// sleeper runs a process in a cgroup2 directory until the test ends.
func sleeper(t *testing.T, dir string) (pid int) {
	t.Helper()
	cgroup, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer cgroup.Close()
	cmd := exec.Command("sleep", "600")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

func mkdir(t *testing.T, dir ...string) string {
	t.Helper()
	path := filepath.Join(dir...)
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantError(t *testing.T, what string, err error, said ...string) {
	t.Helper()
	if err == nil || !containsAll(err.Error(), said) {
		t.Errorf("%s: %v; want %q", what, err, said)
	}
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

func TestHooksAreProvenInTheCgroupsBelowAndInNoOthers(t *testing.T) {
	w := newWorld(t)
	below := mkdir(t, w.cgroup, "pods", "burstable", "pod"+podUID)
	beside := mkdir(t, env.NewCgroup(t), "kubepods")
	for _, dir := range []string{w.cgroup, filepath.Join(w.cgroup, "pods"), below} {
		if err := w.d.Above(dir); err != nil {
			t.Error(err)
		}
	}
	for _, dir := range []string{filepath.Dir(w.cgroup), filepath.Dir(beside), beside} {
		wantError(t, dir, w.d.Above(dir), "sockops does not run in cgroup "+dir, "-cgroup "+w.cgroup)
	}
	wantError(t, "no cgroup", w.d.Above(t.TempDir()), "is not on a cgroup2 file system")
	if err := errors.Join(w.d.AboveProcess(os.Getpid()), w.d.AboveProcess(sleeper(t, below))); err != nil {
		t.Error(err)
	}
	wantError(t, "a process beside", w.d.AboveProcess(sleeper(t, beside)),
		"process ", beside, "-cgroup "+w.cgroup, strings.TrimPrefix(beside, env.CgroupMount(t)))
}

// A path proves nothing: what counts is what the kernel runs.
func TestHooksThatWereDetachedAreNotProven(t *testing.T) {
	w := newWorld(t)
	pods := filepath.Join(w.cgroup, "pods")
	l, err := link.LoadPinnedLink(filepath.Join(newPins(w.opts.BPFFS).links, "connect6"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Detach(); err != nil {
		t.Fatal(err)
	}
	wantError(t, "without connect6", w.d.Above(pods), "connect6 does not run")
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != 1 {
		t.Errorf("Verify: %q, %v", repaired, err)
	}
	if err := w.d.Above(pods); err != nil {
		t.Error(err)
	}
}

func TestPodIsProvenByItsCgroupOrItsProcesses(t *testing.T) {
	w := newWorld(t)
	if err := w.d.AbovePod(podUID); !errors.Is(err, ErrUnproven) {
		t.Errorf("a pod of which nothing is here: %v", err)
	}
	wantError(t, "no UID", w.d.AbovePod("0"), "too short")
	// As at CNI ADD: the cgroup is there, its processes are not.
	mkdir(t, w.cgroup, "pods", "burstable", "pod"+podUID)
	if err := w.d.AbovePod(podUID); err != nil {
		t.Error(err)
	}
	slice := mkdir(t, w.cgroup, "pods", "kubepods-pod"+strings.ReplaceAll(podUID, "-", "_")+".slice")
	sleeper(t, mkdir(t, slice, "container"))
	if err := w.d.AbovePod(podUID); err != nil {
		t.Error(err)
	}
	// One that is elsewhere, too: its connections would leave in plaintext.
	elsewhere := mkdir(t, env.NewCgroup(t), "pod"+podUID)
	wantError(t, "a cgroup of the pod beside -cgroup", w.d.AbovePod(podUID), elsewhere, "-cgroup "+w.cgroup)
}

func TestWhatIsAttachedToTheRootIsAboveAll(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Cgroup = filepath.Dir(o.Cgroup) })
	if err := errors.Join(w.d.AbovePod(podUID), w.d.AboveProcess(1), w.d.AboveNode()); err != nil {
		t.Error(err)
	}
}

// What stands for PID 1 is in the netns of this process, which is the node's.
func TestFirstProcessOfTheNodeMustBeBelow(t *testing.T) {
	w := newWorld(t)
	outside := sleeper(t, filepath.Dir(w.cgroup))
	if err := errors.Join(w.d.aboveFirst(outside), w.d.AboveNode()); err != nil {
		t.Errorf("a node that is a netns of this machine: %v", err)
	}
	w.d.Close()
	w.opts.HostNetns = open(t, "/proc/self/ns/net").Cookie()
	w.d = load(t, w.opts)
	wantError(t, "this machine", w.d.aboveFirst(outside),
		fmt.Sprintf("process %d is in cgroup /", outside), "-cgroup "+w.cgroup, env.CgroupMount(t))
	if err := w.d.aboveFirst(sleeper(t, w.cgroup)); err != nil {
		t.Error(err)
	}
}

func TestPathOfAProcessIsFoundInTheMountThatShowsIt(t *testing.T) {
	for _, tc := range []struct{ root, path, want string }{
		{"/", "/", "/cg"},
		{"/", "/kubepods/pod1", "/cg/kubepods/pod1"},
		{"/kubepods", "/kubepods/pod1", "/cg/pod1"},
		{"/kubepods", "/kubepods", "/cg"},
		{"/kubepods", "/kubepods2/pod1", ""},
		{"/kubepods", "/system.slice", ""},
		// From inside a cgroup namespace.
		{"/../../..", "/../../../kubepods/pod1", "/cg/kubepods/pod1"},
		{"/../../..", "/../../..", "/cg"},
		{"/../..", "/../../../kubepods/pod1", ""},
		{"/", "/../other", ""},
	} {
		got, _ := dirIn(mountinfo.Mount{Root: tc.root, Point: "/cg"}, tc.path)
		if got != tc.want {
			t.Errorf("%s in a mount of %s: %q, want %q", tc.path, tc.root, got, tc.want)
		}
	}
}
