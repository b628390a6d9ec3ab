// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"context"
	"errors"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

func TestALabelThatWentWhileNoZtunnelWasHereLetsThePodGo(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.want("web", carried)
	w.kill()
	w.want("web", refused)
	w.label("web", false)
	w.start()
	w.eventually("the pod is let go", func() bool { return w.connects("web") == released })
}

// The label came after the state file was written, ztunnel was killed before it wrote it
// again, and the API server is away.
func TestAStateFileThatIsOlderThanALabelLetsNoPodGo(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	startWithFile := func() {
		t.Helper()
		w.kill()
		w.stored = true
		w.label("web", false)
		w.start()
		pod, _ := w.pods.byID(req.ContainerID)
		if err := w.pods.converge(t.Context(), pod); err != nil {
			t.Fatal(err)
		}
		w.want("web", refused)
	}
	answer := func(meshed bool) {
		w.stored = false
		w.label("web", meshed)
	}

	startWithFile()
	if got := w.pods.Dump()["web"]; got.State != "undecided" || !strings.Contains(got.Reason, "state file") {
		t.Errorf("the pod is %s (%s), want undecided", got.State, got.Reason)
	}
	answer(true)
	w.eventually("the API server has the label: the pod is enrolled", func() bool { return w.connects("web") == carried })

	startWithFile()
	answer(false)
	w.eventually("the API server has no label: the pod is let go", func() bool { return w.connects("web") == released })
}

// A restart that fails, or is itself stopped, leaves its pods refused.
func TestAPodOfAnEarlierRunIsNeverReleasedByAFailure(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.kill()

	w.load()
	w.pods.base = t.Context()
	if err := w.pods.takeOver(); err != nil {
		t.Fatal(err)
	}
	pod, _ := w.pods.byID(req.ContainerID)
	self, _ := w.registry.ByUID("web")
	all := func() []step[*member] { return slices.Concat(w.pods.carrying(), w.pods.steering()) }
	for i, s := range all() {
		m := &member{sandbox: pod.sandbox(), id: self.ID, life: pod.life, adopted: pod.adopted}
		ctx, cancel := context.WithCancel(t.Context())
		steps := all()
		steps[i].do = func(ctx context.Context, m *member) error {
			defer cancel() // an answer nobody waits for any more
			return s.do(ctx, m)
		}
		if err := doSteps(ctx, steps, m); !errors.Is(err, context.Canceled) {
			t.Fatalf("ended after %q: %v", s.name, err)
		}
		if got := w.connects("web"); got != refused {
			t.Errorf("enrolment ended after %q: connections are %s", s.name, got)
		}
		if in, out := w.datapath.Steered(pod.sandbox().Cookie); !in || !out {
			t.Errorf("enrolment ended after %q: steered inbound %v, outbound %v", s.name, in, out)
		}
	}
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.want("web", carried)
	w.forget(pod)
	w.want("web", released)
}

func TestAPodThatWasNotEnrolledAgainLeavesNoTrace(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.kill()
	w.workloads = nil // nobody knows it any more: it stays as it is
	w.start()
	w.want("web", refused)
	w.del(req)
	w.want("web", refused) // the runtime says that it ends, and it has not
	w.destroy("web")
	w.leavesNoTrace("web")
}

func TestAPodWhoseContainersEndedIsNotLetOut(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("job", "10.1.0.1", true), enroll.Enrolled)
	w.workloads[0].Terminated = true
	w.replace()
	pod, _ := w.pods.byID("c-job")
	if err := w.pods.converge(t.Context(), pod); err != nil {
		t.Error(err)
	}
	w.want("job", carried)
}

// Whoever may configure devices can give himself any address; the steering of
// a neighbour must not follow.
func TestAPodTakesNoAddressOfAnother(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("victim", "10.1.0.1", true), enroll.Enrolled)
	w.addAddr(w.sandboxes["victim"].Netns, netip.MustParseAddr("192.0.2.1"))
	victim, _ := w.pods.byID("c-victim")
	w.label("victim", false)
	w.eventually("the victim left", func() bool { return w.connects("victim") == released })
	w.label("victim", true) // now with its second address
	w.eventually("the victim is enrolled", func() bool { return w.connects("victim") == carried })

	req := w.pod("thief", "10.1.0.2", true)
	remote := w.workloads[0]
	remote.UID, remote.Name, remote.Node, remote.Addrs = "remote", "remote", "there", []netip.Addr{netip.MustParseAddr("10.1.0.9")}
	w.workloads = append(w.workloads, remote)
	w.replace()
	for _, addr := range []string{"10.1.0.1", "192.0.2.1", "10.1.0.9", "192.0.2.2"} {
		w.addAddr(req.Netns, netip.MustParseAddr(addr))
	}
	w.add(req, enroll.Enrolled)
	thief, _ := w.pods.byID("c-thief")
	for _, tc := range []struct {
		pod  *pod
		want []netip.Addr
	}{
		{victim, []netip.Addr{netip.MustParseAddr("10.1.0.1"), netip.MustParseAddr("192.0.2.1")}},
		{thief, []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("192.0.2.2")}},
	} {
		tc.pod.mu.Lock()
		got := tc.pod.member.addresses.list()
		tc.pod.mu.Unlock()
		if !slices.Equal(got, tc.want) {
			t.Errorf("%v is steered at %v, want %v", tc.pod, got, tc.want)
		}
	}
}

// A policy that closes must not wait for a pod that is joining or leaving.
func TestAChangeOfPolicyWaitsForNoPod(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	pod.mu.Lock() // its membership is changing
	defer pod.mu.Unlock()
	done := make(chan struct{})
	go func() {
		w.pods.Recheck()
		w.pods.Retire(pod.member.id)
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatal("it waits")
	}
}

func TestAPodThatLeftIsToldUntilItsLastConnectionEnds(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.workloads = append(w.workloads, workload.Workload{UID: "db", Namespace: "shop", Name: "db", Node: "there",
		ID: w.workloads[0].ID, Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.9")}, Meshed: true})
	w.replace()
	if got := w.connects("web"); got != carried { // to db, which is waited for
		t.Fatal(got)
	}
	w.label("web", false)
	w.eventually("the pod left", func() bool { return w.connects("web") == released })
	if left := len(w.pods.served()); left != 1 {
		t.Errorf("%d members carry connections, want the one that left", left)
	}
	pod, _ := w.pods.byID("c-web")
	w.forget(pod)
	w.pods.leaving.Wait()
	if left := len(w.pods.served()); left != 0 {
		t.Errorf("%d members carry connections of a deleted pod", left)
	}
}

// The plugin would ask the snapshot whether ztunnel answers or not: both call a
// namespace meshed for one pod's label.
func TestAnUnknownPodBesideMeshedOnesMayNotStart(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.pod("first", "10.1.0.1", true)
	second := w.pod("second", "10.1.0.2", true)
	w.workloads = w.workloads[:1] // the source is late
	w.replace()
	reply := w.add(second, enroll.Block)
	if !strings.Contains(reply.Reason, "not known on node here yet") {
		t.Error(reply.Reason)
	}
	w.workloads = nil
	w.replace()
	w.add(second, enroll.Ignore)
}

func TestAConnectionOnItsWayOutlivesTheMembership(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	pod, _ := w.pods.byID("c-web")
	pod.mu.Lock()
	at := pod.member.listeners.Outbound4.Addr().(*net.TCPAddr).AddrPort()
	pod.mu.Unlock()
	w.label("web", false)
	w.eventually("the pod left", func() bool { return w.connects("web") == released })
	if got := w.connectsTo("web", at); got != carried { // as one that was steered there a moment ago
		t.Errorf("connections that are steered already are %s", got)
	}
	w.eventually("the listener closes, and the routing to it goes", func() bool { return w.connectsTo("web", at) != carried })
}

func TestARepairIsCountedByKindAndNotByPod(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	cookie := strconv.FormatUint(uint64(w.sandboxes["web"].Cookie), 10)
	for _, pin := range []string{"netns/" + cookie, "links/connect4"} {
		if err := os.Remove(filepath.Join(w.opts.BPFFS, "v2", pin)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.pods.repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	scrape := httptest.NewRecorder()
	w.pods.Metrics.Handler().ServeHTTP(scrape, httptest.NewRequest("GET", "/metrics", nil))
	var repairs []string
	for line := range strings.Lines(scrape.Body.String()) {
		if strings.HasPrefix(line, "culvert_repairs_total{") {
			repairs = append(repairs, strings.TrimSpace(line))
		}
	}
	if want := []string{ // and nothing that names the netns
		`culvert_repairs_total{what="connect4"} 1`,
		`culvert_repairs_total{what="sk_lookup"} 1`,
	}; !slices.Equal(repairs, want) {
		t.Errorf("counted %q, want %q", repairs, want)
	}
}
