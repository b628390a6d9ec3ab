// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/culvert-mesh/culvert/ztunnel/pods"
	"github.com/culvert-mesh/culvert/ztunnel/source/kube"
)

func TestAPodThatJoinsAndLeavesSaysSo(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	r.pod("plain", "")
	r.is("web", "enrolled", "") // nobody has asked the kernel yet
	r.after(10 * time.Second)
	r.shows("web", "")
	r.is("web", pods.Verified, "")
	r.after(time.Second)
	r.shows("web", "verified")
	r.tells("web", "Normal Enrolled: its connections are carried in mutual TLS, as spiffe://cluster.local/ns/shop/sa/web x1")

	delete(r.conditions, "web")
	r.after(time.Second)
	r.shows("web", "")
	r.tells("web", "Enrolled", "Normal Unenrolled: it is not in the mesh any more")
	r.tells("plain")
	r.after(time.Minute)
	if n := r.server.Asked("patch pods/status"); n != 2 {
		t.Errorf("%d writes to pods, want 2", n)
	}
}

func TestWhatIsWrongIsToldWhenItLastsAndWhenItEnds(t *testing.T) {
	for status, want := range map[string]string{
		"enrolled":       "Warning NotVerified: it is enrolled, but the kernel does not confirm that: a rule is missing",
		pods.Uncertified: "Warning NotCertified: it has no certificate, so that its connections are refused: a rule is missing",
		"unprotected":    "Warning NotProtected: it is in the mesh, but its connections are in plaintext: a rule is missing",
		"lost":           "Warning Refused: its connections are refused: a rule is missing",
	} {
		r := newRig(t)
		r.pod("web", "")
		r.is("web", pods.Verified, "")
		r.after(time.Second)
		r.is("web", status, "a rule is missing")
		r.after(3 * time.Second)
		r.shows("web", "verified")
		r.after(3 * time.Second)
		r.shows("web", status+": a rule is missing")
		r.is("web", pods.Verified, "")
		r.after(time.Second)
		r.shows("web", "verified")
		r.tells("web", "Normal Enrolled", want, "Normal Restored")
	}
}

func TestAPodThatIsNotEnrolledSaysWhy(t *testing.T) {
	r := newRig(t)
	r.pod("host", "")
	r.pod("stuck", "")
	r.is("host", "outside", "hostNetwork: it is in the network namespace of its node")
	r.is("stuck", "pending", "listen: address in use")
	r.after(6 * time.Second)
	r.shows("host", "outside: hostNetwork: it is in the network namespace of its node")
	r.shows("stuck", "pending: listen: address in use")
	r.tells("host", "Warning NotEnrolled: labels put it in the mesh, but it cannot be enrolled: hostNetwork")
	r.tells("stuck", "Warning NotEnrolled: labels put it in the mesh, but it is not enrolled: listen: address in use")

	// The label goes: there was nothing to leave.
	clear(r.conditions)
	r.after(time.Second)
	r.shows("host", "")
	if n := len(r.events("host")); n != 1 {
		t.Errorf("%d Events", n)
	}
}

func TestWarningsAreSaidOnceAndChangeNoStatus(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	r.is("web", pods.Verified, "")
	c := r.conditions["web"]
	c.Warnings = []pods.Warning{{Reason: "ForwardsTraffic", Sentence: "it forwards by docker0"}, {Reason: "ProbeElsewhere", Sentence: "a probe names 10.1.0.9:80"}}
	r.conditions["web"] = c
	r.after(time.Minute)
	r.shows("web", "verified")
	r.tells("web", "Normal Enrolled", "Warning ForwardsTraffic: it forwards by docker0 x1", "Warning ProbeElsewhere")
}

func TestALabelThatMeansNothingIsSaid(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	r.after(time.Second)
	r.wrong = `metadata.labels[culvert.dev/mesh]: "on" means nothing: not enabled or disabled`
	r.after(time.Minute)
	r.shows("web", "")
	r.tells("web", `Warning NotUnderstood: it stays in the mesh, or outside, as it was: metadata.labels[culvert.dev/mesh]: "on" means nothing`)
}

// Of a hundred pods that are as they were, there is nothing to say.
func TestAZtunnelThatStartsSaysNothingAgain(t *testing.T) {
	r := newRig(t)
	for i := range 100 {
		name := fmt.Sprintf("web-%d", i)
		r.pod(name, "verified")
		r.is(name, "pending", "")
	}
	r.now = r.now.Add(time.Second)
	r.restart()
	r.after(4 * time.Second)
	for i := range 100 {
		r.is(fmt.Sprintf("web-%d", i), pods.Verified, "")
	}
	r.after(time.Minute)
	if n := r.server.Asked("patch pods/status"); n != 0 {
		t.Errorf("%d writes to pods", n)
	}
	r.tells("web-7")
}

func TestWhatSomebodyElseWroteIsNotBelieved(t *testing.T) {
	r := newRig(t)
	r.pod("forger", "verified")
	r.pod("born-verified", "verified")
	r.now = r.now.Add(time.Second)
	r.is("born-verified", pods.Verified, "")
	r.after(2 * time.Second)
	r.shows("forger", "")
	r.shows("born-verified", "verified")
	r.tells("born-verified", "Normal Enrolled")

	r.pod("forger", "verified")
	r.after(shownAgain + time.Second) // the watch could be late
	r.shows("forger", "")
	for range 100 { // again and again
		r.pod("forger", "verified")
		r.after(time.Second)
	}
	if n := r.server.Asked("patch pods/status"); n > 5 {
		t.Errorf("%d writes against somebody who does not give in", n)
	}
}

func TestNothingIsWrittenToAPodThatEndsOrCameLaterUnderItsName(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	shown := r.shown().Pods[0]
	shown.ObjectUID = "uid-of-the-one-before"
	if !r.writer.status(t.Context(), r.now, shown, "verified") {
		t.Error("it is tried again")
	}
	r.shows("web", "")
	if _, statuses := r.Stats(); statuses["failed"]+statuses["written"] != 0 {
		t.Errorf("%v", statuses)
	}

	r.is("web", pods.Verified, "")
	r.after(time.Second)
	at := metav1.NewTime(r.now)
	r.server.Set(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: types.UID("uid-web"), DeletionTimestamp: &at,
		Annotations: map[string]string{"culvert.dev/status": "verified", "theirs": "stays"}}})
	delete(r.conditions, "web")
	r.after(10 * time.Second)
	r.shows("web", "verified")
	r.tells("web", "Normal Enrolled")
}

// The Job has done its work: it was not taken out of the mesh.
func TestAPodThatEndedLosesItsStatusWithoutAWord(t *testing.T) {
	r := newRig(t)
	r.pod("job", "")
	r.is("job", pods.Verified, "")
	r.after(time.Second)
	ended := r.server.Objects("pods")[0].DeepCopyObject().(*corev1.Pod)
	ended.Status.Phase = corev1.PodSucceeded
	r.server.Set(ended)
	delete(r.conditions, "job")
	r.after(time.Second)
	r.shows("job", "")
	r.tells("job", "Normal Enrolled")
}

func TestAPodThatFlapsHasFewEventsAndTheLastStatus(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	for i := range 50 {
		r.is("web", "enrolled", fmt.Sprintf("rule %d is missing", i))
		r.after(6 * time.Second)
		r.is("web", pods.Verified, "")
		r.after(time.Second)
	}
	if n := len(r.events("web")); n > 11 {
		t.Errorf("%d Events", n)
	}
	if events, _ := r.Stats(); events["rate"] < 80 {
		t.Errorf("%v: those over the rate are not counted", events)
	}
	if n := r.server.Asked("patch pods/status"); n > 6 {
		t.Errorf("%d writes to the pod", n)
	}
}

func TestAlikeEventsAreOneThatIsCountedUp(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	for range 2 {
		r.is("web", pods.Verified, "")
		r.after(time.Second)
		r.is("web", "enrolled", "a rule is missing")
		r.after(6 * time.Second)
	}
	r.tells("web", "Enrolled", "Restored: the kernel confirms again that its connections are carried, and it has a certificate x1", "NotVerified: it is enrolled, but the kernel does not confirm that: a rule is missing x2")

	r.restart() // its ztunnel does not know how many there were
	r.is("web", pods.Verified, "")
	r.after(time.Second)
	if n := len(r.events("web")); n != 3 {
		t.Errorf("%d Events after a restart:\n%s", n, strings.Join(r.events("web"), "\n"))
	}
	if events, _ := r.Stats(); events["written"] != 2 || events["api"] != 0 { // with that of the node
		t.Errorf("%v", events)
	}

	// The API server keeps them for an hour.
	for _, o := range r.server.Objects("events") {
		r.server.Delete(o)
	}
	r.is("web", "enrolled", "a rule is missing")
	r.after(6 * time.Second)
	r.is("web", pods.Verified, "")
	r.after(time.Second)
	r.tells("web", "NotVerified", "Restored")
}

func TestAWatchThatIsLateCausesNoWriteAgain(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	late := r.shown()
	r.Shown = func() kube.Own { return late }
	r.is("web", pods.Verified, "")
	r.after(9 * time.Second)
	if n := r.server.Asked("patch pods/status"); n != 1 {
		t.Errorf("%d writes to the pod", n)
	}
}

func TestWhileTheAPIServerIsAwayEventsAreDroppedAndStatusesWait(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	r.pod("db", "")
	r.http.Close()
	r.is("web", pods.Verified, "")
	r.after(time.Second)
	r.is("db", pods.Verified, "")
	r.after(10 * time.Second)
	r.shows("web", "")
	if events, statuses := r.Stats(); events["api"] != 3 || statuses["failed"] > 4 { // that of the node, too
		t.Errorf("events %v, statuses %v", events, statuses)
	}
	r.listen()
	r.after(time.Minute)
	for _, said := range []string{"does not take what is told", "takes again what is told"} {
		if n := strings.Count(r.log.String(), said); n != 1 {
			t.Errorf("the log says %q %d times:\n%s", said, n, &r.log)
		}
	}
	r.shows("web", "verified")
	r.shows("db", "verified")
	r.tells("web")
}

// An admission webhook of one namespace, or a right that is missing.
func TestARefusalOfOneWriteHoldsUpNoOther(t *testing.T) {
	r := newRig(t)
	r.server.Refuse("create events", apierrors.NewForbidden(corev1.Resource("events"), "", nil))
	for i := range 20 {
		name := fmt.Sprintf("web-%d", i)
		r.pod(name, "")
		r.is(name, pods.Verified, "")
	}
	r.after(time.Second)
	for i := range 20 {
		r.shows(fmt.Sprintf("web-%d", i), "verified")
	}
	if events, _ := r.Stats(); events["api"] != 21 {
		t.Errorf("%v", events)
	}
	if n := strings.Count(r.log.String(), "refuses what is told"); n != 1 {
		t.Errorf("the log says it %d times:\n%s", n, &r.log)
	}
}

func TestAnEventOfALongNameHasANameThatTheAPIServerTakes(t *testing.T) {
	for _, end := range []string{"-", ".", ""} {
		e := event{object: podReference(kube.OwnPod{Name: strings.Repeat("a", 200-len(end)) + end + strings.Repeat("b", 53)})}
		if problems := validation.IsDNS1123Subdomain(e.name()); len(problems) > 0 {
			t.Errorf("%s: %v", e.name(), problems)
		}
	}
}

func TestAnythingLongIsCutToOneLineThatTheAPIServerTakes(t *testing.T) {
	r := newRig(t)
	r.pod("web", "")
	r.is("web", "pending", strings.Repeat("ä\n", 2000))
	r.after(7 * time.Second)
	if message := r.events("web")[0]; len(message) > 1024 || strings.Contains(message, "\n") || !strings.HasSuffix(message, "… x1") {
		t.Errorf("%d bytes: %q", len(message), message)
	}
	if status := r.shown().Pods[0].Status; len(status) > maxStatus || !strings.HasPrefix(status, "pending: ä ä") {
		t.Errorf("%q", status)
	}
}
