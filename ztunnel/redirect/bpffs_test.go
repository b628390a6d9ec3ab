// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
)

const ownMounts = "CULVERT_TEST_MOUNTS"

// inOwnMounts runs the test in a process with a mount namespace of its own,
// where it returns true.
func inOwnMounts(t *testing.T) bool {
	t.Helper()
	env.Need(t, env.BPF, env.Cgroup2, env.Netns)
	if os.Getenv(ownMounts) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), ownMounts+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

// onOwnBPFFS has a world pin on a bpffs that is nobody else's.
func onOwnBPFFS(t *testing.T) (point string, change func(*Options)) {
	t.Helper()
	point = mkdir(t, t.TempDir(), "bpf")
	if err := unix.Mount("bpf", point, "bpf", 0, "mode=0700"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(point, unix.MNT_DETACH) })
	return point, func(o *Options) { o.BPFFS = filepath.Join(point, "culvert") }
}

func TestUnmountedBPFFSIsMountedAgainWithAllPins(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	point, change := onOwnBPFFS(t)
	w := newWorld(t, change)
	// One pod is enrolled; of another, an earlier run left the pins.
	left := w.enrolled()
	left.s.Listeners.Close()
	w.d.Close()
	w.d = load(t, w.opts)
	p := w.enrolled()
	p.serveAll()
	before := pinned(t, w.opts.BPFFS)

	if err := unix.Unmount(point, 0); !errors.Is(err, unix.EBUSY) {
		t.Errorf("umount: %v; want EBUSY, as the lock holds it", err)
	}
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	repaired, err := w.d.Verify(t.Context())
	if want := "bpffs on " + point + " was unmounted"; err != nil || !slices.Equal(repaired, []string{want}) {
		t.Errorf("Verify: %q, %v; want %q", repaired, err, want)
	}
	w.verify()
	if after := pinned(t, w.opts.BPFFS); !slices.Equal(after, before) {
		t.Errorf("pins are %q, were %q", after, before)
	}
	if _, err := LockDir(w.opts.BPFFS); !errors.Is(err, ErrLocked) {
		t.Errorf("the new one is free: %v", err)
	}
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")

	// What it is for: nobody is let out when this process ends.
	p.s.Listeners.Close()
	w.d.Close()
	for _, p := range []*testPodNS{p, left} {
		serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
		wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
		wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
	}
	w.d = load(t, w.opts)
}

func TestBPFFSThatCannotBeMountedAgainIsAnErrorUntilItCan(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	point, change := onOwnBPFFS(t)
	w := newWorld(t, change)
	p := w.enrolled()
	p.serveAll()
	if err := errors.Join(unix.Unmount(point, unix.MNT_DETACH), os.Remove(point)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := w.d.Verify(t.Context())
		wantError(t, "Verify", err, "the bpffs on "+point+" was unmounted", "mount it again")
		wantError(t, "Sound", w.d.Sound(), point)
	}
	wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
	mkdir(t, point)
	if repaired, err := w.d.Verify(t.Context()); err != nil || len(repaired) != 1 {
		t.Errorf("Verify: %q, %v", repaired, err)
	}
	if err := w.d.Sound(); err != nil {
		t.Error(err)
	}
	w.verify()
}

// Two ztunnels with a directory each on one bpffs: one mounts it again, the
// other finds it mounted and its directory gone.
func TestDirectoryThatIsGoneFromTheBPFFSIsMadeAgain(t *testing.T) {
	if !inOwnMounts(t) {
		return
	}
	point, change := onOwnBPFFS(t)
	w := newWorld(t, change)
	left := w.enrolled()
	left.s.Listeners.Close()
	w.d.Close()
	w.d = load(t, w.opts)
	before := pinned(t, w.opts.BPFFS)
	if err := errors.Join(unix.Unmount(point, unix.MNT_DETACH), unix.Mount("bpf", point, "bpf", 0, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.d.Verify(t.Context()); err != nil {
		t.Error(err)
	}
	if after := pinned(t, w.opts.BPFFS); !slices.Equal(after, before) {
		t.Errorf("pins are %q, were %q", after, before)
	}
}

// pinned are the pins below a directory.
func pinned(t *testing.T, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
