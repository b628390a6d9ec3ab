// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/test/env"
)

// podCgroup makes the cgroup of a pod as the kubelet does before CNI ADD.
func podCgroup(t *testing.T, above, name string) string {
	t.Helper()
	dir := filepath.Join(above, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	return dir
}

// A -cgroup that is not above the pods would enroll them and see nothing.
func TestAPodWhoseCgroupIsNotBelowOursMayNotStart(t *testing.T) {
	for _, driver := range []string{"cgroupfs", "systemd"} {
		t.Run(driver, func(t *testing.T) {
			podUID := newUID()
			name := "pod" + podUID
			if driver == "systemd" {
				name = "kubepods-pod" + strings.ReplaceAll(podUID, "-", "_") + ".slice"
			}
			w := newWorld(t)
			w.start()
			elsewhere := podCgroup(t, env.NewCgroup(t), name)
			req := w.pod(podUID, "10.1.0.1", true)
			reply := w.add(req, enroll.Block)
			for _, part := range []string{"-cgroup " + w.cgroup, elsewhere} {
				if !strings.Contains(reply.Reason, part) {
					t.Errorf("%s: does not name %s", reply.Reason, part)
				}
			}
			w.want(podUID, released) // it does not start, and nothing half done is left
			if in, out := w.datapath.Steered(w.sandboxes[podUID].Cookie); in || out {
				t.Errorf("it is steered: inbound %v, outbound %v", in, out)
			}
			if err := w.pods.Check(t.Context(), req); err == nil || !strings.Contains(err.Error(), elsewhere) {
				t.Errorf("CHECK: %v", err)
			}

			other := newUID()
			plain := w.pod(other, "10.1.0.2", false) // none of ours
			podCgroup(t, filepath.Dir(elsewhere), "pod"+other)
			w.add(plain, enroll.Ignore)
		})
	}
}

func TestAPodWhoseCgroupIsBelowOursIsVerified(t *testing.T) {
	podUID := newUID()
	w := newWorld(t)
	w.start()
	podCgroup(t, w.cgroup, "pod"+podUID)
	w.add(w.pod(podUID, "10.1.0.1", true), enroll.Enrolled)
	w.eventually("it is verified", func() bool { return w.pods.Enrollment().Verified == 1 })
}

// Some runtimes make the cgroup with the first process, after ADD.
func TestAPodOfWhichNothingIsProvenIsNotVerified(t *testing.T) {
	podUID := newUID()
	w := newWorld(t)
	said := w.listen()
	w.start()
	req := w.pod(podUID, "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	if err := w.pods.repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e := w.pods.Enrollment(); e.Enrolled != 1 || e.Verified != 0 || e.Unprotected != 0 {
		t.Errorf("%+v, want one enrolled and none verified", e)
	}

	elsewhere := podCgroup(t, env.NewCgroup(t), "pod"+podUID)
	end := w.processIn(podUID, elsewhere)
	w.eventually("it is known to be unprotected", func() bool { return w.pods.Enrollment().Unprotected == 1 })
	if e := w.pods.Enrollment(); e.Enrolled != 0 || e.Verified != 0 {
		t.Errorf("%+v, want none enrolled and none verified", e)
	}
	if got := w.metric("culvert_unprotected_pods"); got != "1" {
		t.Errorf("culvert_unprotected_pods is %q", got)
	}
	if state := w.pods.Dump()[podUID]; state.State != "unprotected" || !strings.Contains(state.Reason, "-cgroup") {
		t.Errorf("the dump says %s: %s", state.State, state.Reason)
	}
	if err := w.pods.Check(t.Context(), req); err == nil || !strings.Contains(err.Error(), elsewhere) {
		t.Errorf("CHECK: %v", err)
	}
	for range 2 {
		if err := w.pods.repair(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := said.errors("a pod of the mesh is not protected", elsewhere); n != 1 {
		t.Errorf("it was said %d times at Error, want once", n)
	}

	end()
	if err := os.Remove(elsewhere); err != nil {
		t.Fatal(err)
	}
	w.process(podUID) // where it belongs
	w.eventually("it is verified", func() bool { return w.pods.Enrollment().Verified == 1 })
	if e := w.pods.Enrollment(); e.Enrolled != 1 || e.Unprotected != 0 {
		t.Errorf("%+v, want one enrolled", e)
	}
}

// Not every runtime names the pod in a cgroup: then its netns tells.
func TestAProcessInThePodsNetnsProvesToo(t *testing.T) {
	const uid = "by-hand"
	for _, tc := range []struct {
		what   string
		cgroup func(*world) string
		want   enroll.Verdict
	}{
		{"below ours", func(w *world) string { return podCgroup(t, w.cgroup, "app") }, enroll.Enrolled},
		{"elsewhere", func(*world) string { return env.NewCgroup(t) }, enroll.Block},
	} {
		t.Run(tc.what, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			req := w.pod(uid, "10.1.0.1", true)
			w.processIn(uid, tc.cgroup(w))
			w.add(req, tc.want)
			if tc.want == enroll.Enrolled {
				w.eventually("it is verified", func() bool { return w.pods.Enrollment().Verified == 1 })
			}
		})
	}
}
