// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

// said collects the log beside the test's own.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

// errors are the lines at Error that have all these parts.
func (s *said) errors(parts ...string) int { return s.lines(append(parts, "level=ERROR")...) }

// lines are those that have all these parts.
func (s *said) lines(parts ...string) (found int) {
	s.mu.Lock()
	defer s.mu.Unlock()
lines:
	for line := range strings.Lines(s.text.String()) {
		for _, part := range parts {
			if !strings.Contains(line, part) {
				continue lines
			}
		}
		found++
	}
	return found
}

func (w *world) listen() *said {
	s := &said{}
	w.cfg.Log = slog.New(slog.NewTextHandler(s, nil))
	return s
}

// metric is a series of the node's metrics.
func (w *world) metric(series string) string {
	w.t.Helper()
	scrape := httptest.NewRecorder()
	w.pods.Metrics.Handler().ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(scrape.Body.String()) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// The state directory is lost, and no process of the pod is to be seen, as in a
// PID namespace of ztunnel's own.
func TestANetnsThatNothingExplainsStaysSteeredUntilSomethingDoes(t *testing.T) {
	uid := newUID()
	for _, tc := range []struct {
		what   string
		meshed bool // when it is found again
		want   string
	}{{"in the mesh", true, carried}, {"out of it by its label", false, released}} {
		t.Run(tc.what, func(t *testing.T) {
			w := newWorld(t)
			said := w.listen()
			w.start()
			w.add(w.pod(uid, "10.1.0.1", true), enroll.Enrolled)
			w.kill()
			if err := os.RemoveAll(w.cfg.Dir); err != nil {
				t.Fatal(err)
			}
			w.label(uid, tc.meshed)
			w.start()
			w.want(uid, refused)
			w.pods.verify(t.Context())
			w.want(uid, refused)
			if n := said.errors("a netns is steered and no record says whose it is", "cookie=", "inode="); n != 1 {
				t.Errorf("it was said %d times at Error, want once", n)
			}
			if got := w.metric("culvert_unexplained_netns"); got != "1" {
				t.Errorf("culvert_unexplained_netns is %q", got)
			}
			unexplained := 0
			for key, state := range w.pods.Dump() {
				if strings.HasPrefix(key, "netns-") && state.State == "unexplained" && state.Sandbox.Cookie == w.sandboxes[uid].Cookie {
					unexplained++
				}
			}
			if unexplained != 1 {
				t.Errorf("the dump has %v", w.pods.Dump())
			}

			w.process(uid)
			w.eventually("the pod is found again", func() bool { return w.connects(uid) == tc.want })
			w.eventually("nothing is unexplained", func() bool { return len(w.pods.leftovers()) == 0 })
		})
	}
}

func TestANetnsThatNothingExplainsIsLetGoWhenItEnds(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.kill()
	if err := os.RemoveAll(w.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.want("web", refused)
	w.destroy("web")
	w.leavesNoTrace("web")
}

// A path that leads nowhere says nothing of a netns that processes are in.
func TestAPodWhoseNetnsIsUnmountedIsNotReleased(t *testing.T) {
	uid := newUID()
	w := newWorld(t)
	w.start()
	w.add(w.pod(uid, "10.1.0.1", true), enroll.Enrolled)
	end := w.process(uid)
	lives, done := w.open(uid)
	w.moveMount(uid)
	w.pods.verify(t.Context())
	if !lives() {
		t.Error("its connections were cut")
	}
	w.want(uid, carried)

	done()
	w.kill()
	w.start()
	w.eventually("the pod is enrolled again", func() bool { return w.connects(uid) == carried })
	end()
	w.pods.verify(t.Context())
	w.want(uid, carried) // a mount is left
	w.destroy(uid)
	w.leavesNoTrace(uid)
}

// moveMount has another path lead to the netns than the runtime named.
func (w *world) moveMount(uid string) {
	w.t.Helper()
	before := w.sandboxes[uid]
	after := before
	after.Netns = w.t.TempDir() + "/with space"
	if err := os.WriteFile(after.Netns, nil, 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mount(before.Netns, after.Netns, "", unix.MS_BIND, ""); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { unix.Unmount(after.Netns, unix.MNT_DETACH) })
	w.destroy(uid)
	w.sandboxes[uid] = after
}

// What holds the netns then is a descriptor that nobody finds: a pod that might
// come back is neither carried nor released.
func TestALostNetnsIsRefusedAndTakenUpAgain(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	lives, _ := w.open("web")
	fd, err := os.Open(w.sandboxes["web"].Netns)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	w.destroy("web")
	w.eventually("the connection is cut", func() bool { return !lives() })
	w.eventually("the pod is lost", func() bool { return w.pods.Dump()["web"].State == "lost" })
	again := w.sandboxes["web"]
	again.Netns = fmt.Sprintf("/proc/self/fd/%d", fd.Fd())
	w.sandboxes["web"] = again
	w.want("web", refused)
	w.kill()
	w.start()
	w.want("web", refused)

	again.Netns = t.TempDir() + "/netns"
	if err := os.WriteFile(again.Netns, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(w.sandboxes["web"].Netns, again.Netns, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(again.Netns, unix.MNT_DETACH) })
	w.sandboxes["web"] = again
	w.eventually("the pod is enrolled again", func() bool { return w.connects("web") == carried })
}

// A Namespace that is not there is no label that says no.
func TestAPodOfAVanishedNamespaceIsNotReleased(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.workloads[0].Meshed, w.workloads[0].Undecided = false, true
	w.replace()
	pod, _ := w.pods.byID(req.ContainerID)
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.want("web", carried)
	w.kill()
	w.start() // that knows no more
	w.want("web", refused)
	if err := w.pods.Check(t.Context(), req); err != nil {
		t.Errorf("CHECK of a pod that nobody decides on: %v", err)
	}
	if got := w.pods.Dump()["web"].State; got != "undecided" {
		t.Errorf("the pod is %s, want undecided", got)
	}
	late := w.pod("late", "10.1.0.2", false)
	late.PodUID = "later" // one that was never decided on
	w.workloads[1].UID, w.workloads[1].Undecided = late.PodUID, true
	w.replace()
	if reply := w.add(late, enroll.Block); !strings.Contains(reply.Reason, "namespace shop is not known on node here yet") {
		t.Error(reply.Reason)
	}

	w.workloads[0].Undecided = false
	w.replace()
	w.eventually("a label that is there lets it go", func() bool { return w.connects("web") == released })
	if len(w.pods.all()) != 1 {
		t.Errorf("%d sandboxes are remembered, want one", len(w.pods.all()))
	}
}

func TestAMissingPodIsSaidOnceAndWhy(t *testing.T) {
	w := newWorld(t)
	said := w.listen()
	w.start()
	w.pod(newUID(), "10.1.0.1", true)
	for range 3 {
		w.pods.discover()
	}
	said.mu.Lock()
	defer said.mu.Unlock()
	if n := strings.Count(said.text.String(), "no sandbox found of a pod that belongs in the mesh"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%s", n, said.text.String())
	}
	if !strings.Contains(said.text.String(), "hostPID") {
		t.Error("it does not say what to look at")
	}
}

// A completed pod keeps its sandbox for a while; its address may be a live one's.
func TestALivePodHasTheAddressOfACompletedOne(t *testing.T) {
	w := newWorld(t)
	w.start()
	job := w.pod("job", "10.1.0.1", true)
	w.add(job, enroll.Enrolled)
	w.workloads[0].Terminated = true
	w.replace()
	w.del(job)
	live := w.pod("live", "10.1.0.1", true)
	w.add(live, enroll.Enrolled)
	w.want("live", carried)
	w.want("job", refused)
	w.destroy("job")
	w.leavesNoTrace("job")
	w.want("live", carried)
}

// The kubelet names a static pod by the hash of its file.
func TestAStaticPodIsEnrolledUnderTheKubeletsUID(t *testing.T) {
	hash := strings.ReplaceAll(newUID(), "-", "")
	w := newWorld(t)
	req := w.pod(hash, "10.1.0.1", true) // as source makes of a mirror pod
	w.workloads[0].Static, w.workloads[0].Name = true, "web-here"
	req.PodName = "web-here"
	thief := w.workloads[0]
	thief.Name, thief.Created = "thief", w.workloads[0].Created.Add(1)
	w.workloads = append(w.workloads, thief) // an object that claims the UID
	w.start()
	w.add(req, enroll.Enrolled)
	w.want(hash, carried)
	stolen := req
	stolen.PodName = "thief"
	if reply := w.add(stolen, enroll.Block); !strings.Contains(reply.Reason, "not known") {
		t.Error(reply.Reason)
	}
	w.kill()
	w.workloads[0].Created = w.workloads[0].Created.Add(2) // its mirror was made anew
	w.workloads = w.workloads[:1]
	w.process(hash)
	if err := os.RemoveAll(w.cfg.Dir); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.eventually("the pod is found by its cgroup", func() bool { return w.connects(hash) == carried })
}

func TestAStaticPodOfTheHostsNetworkStaysOut(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("5d41402abc4b2a76b9719d911017c592", "10.1.0.1", false)
	w.workloads[0].Static, w.workloads[0].HostNetwork = true, true
	w.replace()
	w.add(req, enroll.Ignore)
	w.pods.discover()
	if enrolled, _ := w.pods.all()[0].enrolled(); enrolled {
		t.Error("it is enrolled")
	}
}
