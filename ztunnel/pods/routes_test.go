// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/cni/enroll"
)

const reflect4 = "/proc/sys/net/ipv4/fwmark_reflect"

// rules are those of a pod beyond the kernel's own three, and inner the one of
// them for ztunnel's legs to the app.
func (w *world) rules(uid string) (n int, inner *netlink.Rule) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		found, err := netlink.RuleList(unix.AF_INET)
		for _, r := range found {
			if r.Mark != 0 {
				inner = &r
			}
		}
		n = len(found) - 3
		return err
	})
	return n, inner
}

func (w *world) sysctl(uid, path string) (value string) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error {
		text, err := os.ReadFile(path)
		value = strings.TrimSpace(string(text))
		return err
	})
	return value
}

func (w *world) setSysctl(uid, path, value string) {
	w.t.Helper()
	w.inNetns(w.sandboxes[uid].Netns, func() error { return os.WriteFile(path, []byte(value), 0) })
}

func (w *world) routed(uid string) bool {
	n, inner := w.rules(uid)
	return n > 0 && inner != nil && w.sysctl(uid, reflect4) == "1"
}

func (w *world) unrouted(uid string) bool {
	n, _ := w.rules(uid)
	return n == 0 && w.sysctl(uid, reflect4) == "0"
}

// counted is a series of the node's metrics that is counted as things happen.
func (w *world) counted(series string) string {
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

func TestRoutingThatAnotherHandChangedIsRestoredAndCounted(t *testing.T) {
	const repaired = `culvert_repairs_total{what="routing"}`
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	for i, harm := range []func(){
		func() {
			_, inner := w.rules("web")
			w.inNetns(w.sandboxes["web"].Netns, func() error { return netlink.RuleDel(inner) })
		},
		func() { w.setSysctl("web", reflect4, "0") },
	} {
		if !w.routed("web") {
			t.Fatal("the pod is not routed")
		}
		before := w.counted(repaired)
		harm()
		w.eventually("the routing is back", func() bool { return w.routed("web") })
		w.eventually("it is counted", func() bool { return w.counted(repaired) != before })
		if i == 0 && w.counted(repaired) != "1" {
			t.Errorf("counted %s times", w.counted(repaired))
		}
	}
}

// What one pod does to its own netns is no reason to doubt the others.
func TestAPodWhoseRoutingIsInDoubtIsNotVerified(t *testing.T) {
	const acceptLocal = "/proc/sys/net/ipv4/conf/lo/accept_local"
	web, db := newUID(), newUID()
	w := newWorld(t)
	w.start()
	for uid, addr := range map[string]string{web: "10.1.0.1", db: "10.1.0.2"} {
		w.add(w.pod(uid, addr, true), enroll.Enrolled)
		w.process(uid) // which proves that the hooks run for the pod
	}
	verified := func(n int) func() bool { return func() bool { return w.pods.Enrollment().Verified == n } }
	w.eventually("both are verified", verified(2))
	w.wantNeighbour(web, true)
	w.setSysctl(web, acceptLocal, "1")
	w.eventually("one is verified", verified(1))
	w.wantNeighbour(web, false)
	w.wantNeighbour(db, true)
	w.setSysctl(web, acceptLocal, "0")
	w.eventually("both are verified again", verified(2))
}

func TestTheRoutingGoesWithTheLastConnection(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	_, done := w.open("web")
	w.label("web", false)
	w.eventually("the pod left", func() bool { return w.connects("web") == released })
	if !w.routed("web") {
		t.Error("the routing went before the connection that it carries")
	}
	w.label("web", true) // while the connection is still open
	w.eventually("the pod is back", func() bool { return w.connects("web") == carried })
	done()
	w.eventually("the first member has left", func() bool { return len(w.pods.served()) == 1 })
	if !w.routed("web") {
		t.Error("the end of what the pod opened before took the routing away")
	}
	w.want("web", carried)
	w.label("web", false)
	w.eventually("the routing has gone", func() bool { return w.unrouted("web") })
}

func TestTheRoutingOfAnEarlierRunGoesToo(t *testing.T) {
	for name, label := range map[string]func(w *world){
		"the label went while no ztunnel was here": func(w *world) {
			w.kill()
			w.label("web", false)
		},
		"ztunnel ended while it still carried": func(w *world) {
			w.label("web", false)
			w.eventually("the pod left", func() bool { return w.connects("web") == released })
			w.kill()
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.start()
			w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
			_, done := w.open("web")
			label(w)
			done()
			w.start()
			w.eventually("the routing has gone", func() bool { return w.unrouted("web") })
		})
	}
}

// A deleted pod takes what is remembered of it along: there is room for 4,096.
func TestADeletedPodIsRoutedNoMore(t *testing.T) {
	w := newWorld(t)
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.del(req)
	w.destroy("web")
	w.leavesNoTrace("web")
	if w.datapath.Routed(w.sandboxes["web"].Cookie) {
		t.Error("the kernel remembers the routing of a netns that is gone")
	}
}

// An app may hold a connection of the mesh, which has ended, for as long as it likes.
func TestADeadSocketIsLookedForLessAndLessOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pause
		start, tries := time.Now(), 0
		for time.Since(start) < time.Hour {
			if !time.Now().Before(p.next) {
				tries++
				p.later()
			}
			time.Sleep(verifyEvery)
		}
		if tries > 70 {
			t.Errorf("%d tries in an hour", tries)
		}
	})
}

func TestTheRoutingGoesAfterTheLastSocketToAStandIn(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	_, done := w.open("web")
	w.label("web", false)
	w.eventually("the pod left", func() bool { return w.connects("web") == released })
	held := w.holdStandIn("web")
	done()
	pod, _ := w.pods.byID("c-web")
	w.eventually("the socket was found twice", func() bool {
		pod.mu.Lock()
		defer pod.mu.Unlock()
		return pod.unrouting.last > verifyEvery
	})
	if !w.datapath.Routed(w.sandboxes["web"].Cookie) {
		t.Error("the routing went before the app's socket")
	}
	held.Close()
	w.eventually("the routing has gone", func() bool { return w.unrouted("web") })
}

// holdStandIn connects an app of the pod, which is not steered any more, to another
// one by a stand-in.
func (w *world) holdStandIn(uid string) net.Conn {
	w.t.Helper()
	ns := w.enter(w.sandboxes[uid].Netns)
	ln, err := ns.Listen(w.t.Context(), netip.MustParseAddrPort("0.0.0.0:8080"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { ln.Close() })
	conn, err := ns.Dial(w.t.Context(), netip.MustParseAddrPort("240.0.0.9:8080"), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := conn.SetLinger(0); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { conn.Close() })
	return conn
}

// So most sandboxes end: an operator need not be alarmed.
func TestALoopbackThatIsDownIsNoError(t *testing.T) {
	w := newWorld(t)
	said := w.listen()
	w.start()
	req := w.pod("web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.inNetns(req.Netns, func() error {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		return netlink.LinkSetDown(lo)
	})
	w.eventually("it is said", func() bool { return said.lines("following the netns of a pod", "network is down", "level=INFO") > 0 })
	if n := said.errors("following the netns of a pod"); n != 0 {
		t.Errorf("%d lines at Error", n)
	}
}
