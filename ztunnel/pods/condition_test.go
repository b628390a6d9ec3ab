// SPDX-License-Identifier: Apache-2.0

package pods

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/vishvananda/netlink"

	"github.com/culvert-mesh/culvert/cni/enroll"
	"github.com/culvert-mesh/culvert/identity/ca"
	"github.com/culvert-mesh/culvert/ztunnel/certs"
	"github.com/culvert-mesh/culvert/ztunnel/workload"
)

// moody is a CA that signs or refuses as the test says.
type moody struct {
	inProcess
	mu      sync.Mutex
	refusal error
}

func (m *moody) Issue(ctx context.Context, id spiffeid.ID, csr []byte, ttl time.Duration) (certs.Issued, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refusal != nil {
		return certs.Issued{}, m.refusal
	}
	return m.inProcess.Issue(ctx, id, csr, ttl)
}

func (m *moody) refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refusal = err
}

// certify has certificates signed, from the next start on.
func (w *world) certify() *moody {
	w.t.Helper()
	signer, err := ca.Open(w.t.TempDir(), ca.Options{TrustDomain: domain})
	if err != nil {
		w.t.Fatal(err)
	}
	m := &moody{inProcess: inProcess{signer}}
	w.issuer = m
	return m
}

// startCertified starts a ztunnel whose certificates are kept.
func (w *world) startCertified() {
	w.t.Helper()
	w.start()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	store := w.pods.Certs
	go func() { done <- store.Run(ctx) }()
	stop := w.node.stop
	w.node.stop = func() {
		stop()
		cancel()
		<-done
	}
}

func (w *world) condition(uid string) Condition {
	for _, c := range w.pods.Conditions() {
		if c.UID == uid {
			return c
		}
	}
	return Condition{}
}

// tells waits until a pod's status is so, for a reason that has the text.
func (w *world) tells(uid, status, why string) {
	w.t.Helper()
	var got Condition
	defer func() {
		if w.t.Failed() {
			w.t.Logf("%+v", got)
		}
	}()
	w.eventually(uid+" is "+status+", "+why, func() bool {
		got = w.condition(uid)
		return got.Status == status && strings.Contains(got.Why, why) && (why != "" || got.Why == "")
	})
}

func TestTheConditionOfAPodIsWhatKernelAndCASayOfIt(t *testing.T) {
	w := newWorld(t)
	authority := w.certify()
	authority.refuse(errors.New("the pod is not placed on this node"))
	w.startCertified()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.process("web")
	w.add(w.pod("plain", "10.1.0.2", false), enroll.Ignore)
	w.tells("web", Uncertified, "not placed on this node")
	if c := w.condition("plain"); c.Status != "" || c.Name != "plain" {
		t.Errorf("a pod outside the mesh: %+v", c)
	}

	authority.refuse(nil)
	w.tells("web", Verified, "")
	if c := w.condition("web"); c.Identity != "spiffe://cluster.local/ns/shop/sa/web" || c.Namespace != "shop" {
		t.Errorf("%+v", c)
	}

	w.label("web", false)
	w.tells("web", "", "")
}

func TestWhyTheKernelDoesNotConfirmAPodIsToldAndGoes(t *testing.T) {
	w := newWorld(t)
	w.certify()
	w.startCertified()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.tells("web", stateEnrolled, "process") // nothing shows yet that hooks run for it
	if s := w.pods.Dump()["web"]; !strings.Contains(s.Reason, "process") {
		t.Errorf("the dump says %q", s.Reason)
	}
	w.process("web")
	w.tells("web", Verified, "")
}

func TestAPodOfTheMeshThatIsNotFoundIsPendingAndSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.start()
	w.pod("web", "10.1.0.1", true)
	w.tells("web", statePending, "/proc shows no process")
	w.label("web", false)
	w.tells("web", "", "")
}

func TestWhatIsWrongBesidesIsAWarning(t *testing.T) {
	w := newWorld(t)
	w.certify()
	w.startCertified()
	w.add(w.pod("web", "10.1.0.1", true), enroll.Enrolled)
	w.process("web")
	w.pod("prober", "10.1.0.2", false)
	w.workloads[0].ProbePorts = []uint16{8080}
	w.workloads[1].ForeignProbes = []workload.ForeignProbe{{Host: "10.1.0.1", Addr: netip.MustParseAddr("10.1.0.1"), Port: 8080}}
	w.replace()
	w.tells("web", Verified, "")
	w.forward("web")
	warned := func(uid, reason, text string) func() bool {
		return func() bool {
			return slices.ContainsFunc(w.condition(uid).Warnings, func(x Warning) bool { return x.Reason == reason && strings.Contains(x.Sentence, text) })
		}
	}
	w.eventually("it forwards", warned("web", "ForwardsTraffic", "docker0"))
	w.eventually("its probes are not exempt", warned("web", "ProbeNotExempt", "port 8080 are not exempt from policy: the probe of pod shop/prober"))
	w.eventually("a probe leads elsewhere", warned("prober", "ProbeElsewhere", "10.1.0.1:8080"))
	if n := len(w.condition("web").Warnings); n != 2 {
		t.Errorf("%d warnings: %v", n, w.condition("web").Warnings)
	}
	w.inNetns(w.sandboxes["web"].Netns, func() error {
		docker0, err := netlink.LinkByName("docker0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(docker0)
	})
	w.eventually("it forwards no more", func() bool { return !warned("web", "ForwardsTraffic", "")() })
}

// Of a pod with hostUsers: false the netns belongs to a user namespace of its own.
func TestAPodInAUserNamespaceIsEnrolledLikeAnyOther(t *testing.T) {
	w := newWorld(t)
	w.certify()
	w.startCertified()
	init := exec.Command("unshare", "--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && echo && exec sleep 1000")
	out, err := init.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := init.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { init.Process.Kill(); init.Wait() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	req := w.podIn(fmt.Sprintf("/proc/%d/ns/net", init.Process.Pid), "web", "10.1.0.1", true)
	w.add(req, enroll.Enrolled)
	w.want("web", carried)
	w.tells("web", Verified, "")
	w.label("web", false)
	w.eventually("it left", func() bool { return w.connects("web") == released })
}
