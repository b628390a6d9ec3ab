// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// process runs in a pod's netns, in a cgroup named as the kubelet would, until
// the returned function is called.
func (w *world) process(uid string) (end func()) {
	w.t.Helper()
	dir := filepath.Join(w.cgroup, "pod"+uid)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		w.t.Fatal(err)
	}
	return w.processIn(uid, dir)
}

// processIn runs in another cgroup.
func (w *world) processIn(uid, dir string) (end func()) {
	w.t.Helper()
	cgroup, err := os.Open(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	defer cgroup.Close()
	cmd := exec.Command("sleep", "600") // longer than any test
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	if err := env.InNetns(w.sandboxes[uid].Netns, cmd.Start); err != nil {
		w.t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			cmd.Process.Kill()
			cmd.Wait()
		}
	}
	w.t.Cleanup(end)
	return end
}

// A runtime that passes no UID asked before the objects knew the pod, whose label comes
// later still.
func TestAPodThatHadNoUIDAtADDIsEnrolledWhenItIsKnown(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.start()
	req := w.pod(uid, "10.1.0.1", true)
	req.PodUID = ""
	late := w.workloads
	w.workloads = nil
	w.replace()
	w.add(req, enroll.Ignore)
	w.process(uid)

	thief := late[0]
	thief.UID, thief.Name = newUID(), "thief"
	w.workloads = []workload.Workload{thief}
	w.replace()
	thiefs := req
	thiefs.ContainerID, thiefs.PodName = "c-thief", "thief"
	if reply := w.add(thiefs, enroll.Block); !strings.Contains(reply.Reason, "enrolled as pod shop/"+uid) {
		t.Error(reply.Reason)
	}

	w.workloads = late
	w.replace()
	w.eventually("the pod is enrolled", func() bool { return w.connects(uid) == carried })
	if n := len(w.pods.all()); n != 1 {
		t.Errorf("%d sandboxes are recorded, want one", n)
	}
	w.del(req)
	w.destroy(uid)
}

// Without a pause container, the process through which a sandbox was found is
// an app's: others of the pod go on when it ends.
func TestASandboxOutlivesTheProcessThroughWhichItWasFound(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.pod(uid, "10.1.0.1", true)
	first := w.process(uid)
	w.start()
	w.eventually("the pod is enrolled", func() bool { return w.connects(uid) == carried })
	pod, _ := w.pods.byID(scanned + uid)
	second := w.process(uid)

	first()
	w.pods.verify(t.Context())
	w.want(uid, carried)
	if now, ok := w.pods.byID(scanned + uid); !ok || now != pod || pod.life.Err() != nil {
		t.Error("the pod's connections were cut")
	}

	third := w.process(uid)
	w.kill()
	second() // while nobody looks
	w.start()
	if got := w.connects(uid); got == released {
		t.Error("the pod is released by a restart")
	}
	w.eventually("the pod is enrolled again", func() bool { return w.connects(uid) == carried })

	third()
	w.destroy(uid)
	w.leavesNoTrace(uid)
}

func TestAPodWhoseRecordIsLostIsNotReleased(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.start()
	req := w.pod(uid, "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.process(uid)
	file := w.pods.files.path(w.sandboxes[uid].Cookie)
	w.kill()
	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	w.load()
	w.pods.base = t.Context()
	if err := w.pods.takeOver(); err != nil {
		t.Fatal(err)
	}
	w.want(uid, refused)
	pod, ok := w.pods.byID(scanned + uid)
	if !ok {
		t.Fatal("the pod was not found")
	}
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.want(uid, carried)
	w.forget(pod)
}

func TestANetnsThatCannotBeLookedAtIsNotGone(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	inode := info.Sys().(*syscall.Stat_t).Ino
	loop := filepath.Join(dir, "loop") // ELOOP, as good as an I/O error
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		what  string
		path  string
		inode uint64
		gone  bool
	}{
		{"the same", path, inode, false},
		{"another", path, inode + 1, true},
		{"none", path + "x", inode, true},
		{"nobody knows", loop, inode, false},
	} {
		if err := sameNetns(tc.path, sandbox{Inode: tc.inode}); (err != nil) != tc.gone {
			t.Errorf("%s: %v, want gone=%v", tc.what, err, tc.gone)
		}
	}
}

// Two records of one netns would undo each other's steering.
func TestANetnsHasOneRecord(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.start()
	req := w.pod(uid, "10.1.0.1", true)
	w.process(uid) // found before its ADD was answered
	w.pods.discover()
	w.eventually("the pod is enrolled", func() bool { return w.connects(uid) == carried })
	w.add(req, enroll.Enrolled)
	w.pods.discover()
	if all := w.pods.all(); len(all) != 1 || all[0].sandbox().ContainerID != req.ContainerID {
		t.Errorf("%d records, the first of %s; want one, of the runtime's container", len(all), all[0].sandbox().ContainerID)
	}
	w.want(uid, carried)
	pod, _ := w.pods.byID(req.ContainerID)
	found, err := w.pods.findSandbox(sandbox{ContainerID: scanned + uid, PodUID: uid, Networks: pod.sandbox().Networks}, processes())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.pods.record(found); err != nil || len(w.pods.all()) != 1 {
		t.Errorf("found again: %v, %d records", err, len(w.pods.all()))
	}
	thief := found
	thief.ContainerID, thief.PodUID = "thief", "thief"
	if _, err := w.pods.record(thief); err == nil {
		t.Error("a netns is recorded as another pod's")
	}
	w.want(uid, carried)
}

// Runtimes repeat the DEL of a sandbox, also when its pod has another by now.
func TestAFoundSandboxIsNotDeletedForItsPredecessor(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	req := w.pod(uid, "10.1.0.1", true)
	end := w.process(uid)
	w.start()
	w.eventually("the pod is enrolled", func() bool { return w.connects(uid) == carried })
	for _, predecessor := range []string{env.NewNetns(t), "/run/netns/gone"} {
		old := req
		old.ContainerID, old.Netns = "predecessor", predecessor
		if err := w.pods.Del(t.Context(), old); err != nil {
			t.Error(err)
		}
		if _, ok := w.pods.byID(scanned + uid); !ok {
			t.Fatalf("the DEL of netns %s deleted another sandbox", predecessor)
		}
	}
	if err := w.pods.Check(t.Context(), req); err != nil {
		t.Errorf("CHECK of a sandbox that was found: %v", err)
	}
	second := req // of another network: its addresses tell
	second.Network, second.IfName, second.IPs = "storage", "net1", enroll.Addrs{netip.MustParseAddr("10.2.0.1")}
	w.del(second)
	w.want(uid, carried)
	w.del(req)
	w.want(uid, refused)
	end()
	w.destroy(uid)
	w.leavesNoTrace(uid)
}
