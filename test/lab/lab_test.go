// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/test/env"
	"github.com/culvert-mesh/culvert/test/lab"
	"github.com/culvert-mesh/culvert/test/lab/agent"
)

func newLab(t *testing.T, opts lab.Options) *lab.Lab {
	t.Helper()
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	l, err := lab.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Logs())
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l
}

func newPod(t *testing.T, n *lab.Node, spec lab.PodSpec) *lab.Pod {
	t.Helper()
	p, err := n.Pod(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPodsOfTwoNodesTalkAndTheWireShowsIt(t *testing.T) {
	for _, network := range []string{"ptp", "bridge"} {
		t.Run(network, func(t *testing.T) {
			l := newLab(t, lab.Options{Unmeshed: true, Network: network})
			must(t, l.Namespace("shop", nil))
			client := newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "client"})
			near := newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "near"})
			far := newPod(t, l.Nodes[1], lab.PodSpec{Namespace: "shop", Name: "far"})
			for _, tcp := range []string{"tcp4", "tcp6"} {
				talk(t, l, client.Place, client.At(tcp, 0).Addr(), far, tcp, true)
				talk(t, l, client.Place, client.At(tcp, 0).Addr(), near, tcp, false)
				talk(t, l, l.Nodes[1].Kubelet, netip.Addr{}, far, tcp, false)
				talk(t, l, l.Outside.Place, l.Outside.Addr(tcp), far, tcp, true)
			}
		})
	}
}

// talk sends a message to a server in the pod and looks for it on the wire.
func talk(t *testing.T, l *lab.Lab, from *lab.Place, addr netip.Addr, to *lab.Pod, tcp string, onWire bool) {
	t.Helper()
	ctx := t.Context()
	srv, err := to.Serve(ctx, agent.Echo, 8080)
	must(t, err)
	defer srv.Close()
	c, err := l.Wire.Capture(ctx)
	must(t, err)
	message := "hello over " + tcp
	if err := from.Ping(ctx, tcp, to.At(tcp, 8080), message); err != nil {
		t.Errorf("%s to %v over %s: %v", from.Cgroup, to, tcp, err)
		return
	}
	served, err := srv.Served(ctx)
	must(t, err)
	if len(served) != 1 || addr.IsValid() && served[0].Peer.Addr().Unmap() != addr {
		t.Errorf("%v served %+v, want one of %v", to, served, addr)
	}
	if found, err := c.Contains([]byte(message)); found != onWire || err != nil {
		t.Errorf("%s to %v: on the wire %v, %v; want %v", from.Cgroup, to, found, err, onWire)
	}
	must(t, c.Stop())
}

func TestAgentsAreInTheirPodsCgroup(t *testing.T) {
	l := newLab(t, lab.Options{Nodes: 1, Unmeshed: true})
	must(t, l.Namespace("shop", nil))
	pod := newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "web"})
	for _, place := range []*lab.Place{pod.Place, l.Nodes[0].Kubelet, l.Nodes[0].Host, l.Outside.Place} {
		out, err := place.Run(t.Context(), "cat", "/proc/self/cgroup")
		must(t, err)
		if !strings.Contains(out, "0::/") || !strings.HasSuffix(place.Cgroup, cgroup2(out)) {
			t.Errorf("a process of %s is in %s", place.Cgroup, out)
		}
	}
	if !strings.Contains(pod.Cgroup, pod.UID) {
		t.Errorf("cgroup %s does not bear the pod's UID %s", pod.Cgroup, pod.UID)
	}
	out, err := exec.Command(l.EnterScript("shop-web"), "cat", "/proc/self/cgroup").CombinedOutput()
	must(t, err)
	if !strings.HasSuffix(pod.Cgroup, cgroup2(string(out))) {
		t.Errorf("the enter script runs in %s", out)
	}
	must(t, pod.Delete(t.Context()))
	if _, err := os.Stat(pod.Cgroup); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("cgroup of a deleted pod: %v", err)
	}
	newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "web"})
}

// cgroup2 is the v2 line of /proc/PID/cgroup.
func cgroup2(text string) string {
	_, path, _ := strings.Cut("\n"+text, "\n0::")
	path, _, _ = strings.Cut(path, "\n")
	return path
}

func TestNothingIsLeftOfAClosedLab(t *testing.T) {
	l := newLab(t, lab.Options{Unmeshed: true})
	must(t, l.Namespace("shop", nil))
	newPod(t, l.Nodes[0], lab.PodSpec{Namespace: "shop", Name: "web"})
	run := filepath.Base(l.Dir())
	if len(left(t, run)) == 0 {
		t.Error("a running lab is not found: the check is blind")
	}
	must(t, l.Close())
	if found := left(t, run); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

// left is everything on this machine that bears the run's id.
func left(t *testing.T, run string) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{"/run/netns/culvert-*", "/sys/fs/cgroup/*", "/sys/fs/cgroup/unified/*", "/run/culvert-lab/*", "/run/culvert-lab/.*"} {
		matches, err := filepath.Glob(pattern)
		must(t, err)
		for _, m := range matches {
			if bears(m, run) {
				found = append(found, m)
			}
		}
	}
	for _, file := range []string{"/proc/self/mountinfo", "/proc/net/dev"} {
		text, err := os.ReadFile(file)
		must(t, err)
		for line := range strings.Lines(string(text)) {
			if bears(line, run) {
				found = append(found, line)
			}
		}
	}
	return found
}

// bears reports whether a name is of a run whose id begins so: the process 7 of which
// somebody asks is not 17, nor part of another name.
func bears(name, run string) bool {
	return slices.ContainsFunc([]string{"culvert-", "culvert-lab/", "culvert-lab/."}, func(prefix string) bool { return strings.Contains(name, prefix+run) })
}

const helper = "CULVERT_LAB_TEST_OWNER"

// TestMain is also the owner of a lab that TestAKilledOwnersLabIsSwept kills.
func TestMain(m *testing.M) {
	if os.Getenv(helper) == "" {
		os.Exit(m.Run())
	}
	ctx := context.Background()
	l, err := lab.New(ctx, lab.Options{Unmeshed: true})
	if err == nil {
		err = l.Namespace("shop", nil)
	}
	if err == nil {
		_, err = l.Nodes[0].Pod(ctx, lab.PodSpec{Namespace: "shop", Name: "web"})
	}
	if err != nil {
		os.Stderr.WriteString(err.Error())
		os.Exit(1)
	}
	os.Stdout.WriteString(filepath.Base(l.Dir()))
	os.Stdout.Close()
	select {}
}

func TestAKilledOwnersLabIsSwept(t *testing.T) {
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), helper+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, 64)
	must(t, out.(*os.File).SetReadDeadline(time.Now().Add(time.Minute)))
	n, err := out.Read(buf)
	must(t, err)
	run := string(buf[:n])
	if swept, err := lab.Sweep(t.Context()); err != nil || strings.Contains(strings.Join(swept, " "), run) {
		t.Errorf("swept %v, %v: the owner lives", swept, err)
	}
	must(t, cmd.Process.Signal(unix.SIGKILL))
	_ = cmd.Wait()
	if len(left(t, run)) == 0 {
		t.Error("a killed lab is not found: the check is blind")
	}
	if _, err := lab.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	if found := left(t, run); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestALabThatCannotBeBuiltLeavesNothing(t *testing.T) {
	env.Need(t, env.Netns, env.Cgroup2, env.BPF)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	mine := fmt.Sprintf("%d-", os.Getpid()) // other tests have labs too
	if _, err := lab.New(ctx, lab.Options{Bin: "/nonexistent"}); err == nil {
		t.Error("a lab without programs was built")
	}
	if found := left(t, mine); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestPodsComeAndGoAtOnce(t *testing.T) {
	l := newLab(t, lab.Options{Unmeshed: true})
	must(t, l.Namespace("shop", nil))
	const count = 12
	var group errgroup.Group
	pods := make([]*lab.Pod, count)
	for i := range pods {
		group.Go(func() (err error) {
			pods[i], err = l.Nodes[i%2].Pod(t.Context(), lab.PodSpec{Namespace: "shop", Name: fmt.Sprintf("web-%d", i)})
			return err
		})
	}
	must(t, group.Wait())
	addrs := make(map[netip.Addr]bool)
	for _, p := range pods {
		addrs[p.IP4], addrs[p.IP6] = true, true
		group.Go(func() error { return p.Delete(t.Context()) })
	}
	must(t, group.Wait())
	if len(addrs) != 2*count {
		t.Errorf("%d pods have %d addresses", count, len(addrs))
	}
	for _, n := range l.Nodes {
		out, err := n.Host.Run(t.Context(), "cat", "/proc/net/dev")
		must(t, err)
		if pods := n.Pods(); len(pods) > 0 || strings.Contains(out, "veth") {
			t.Errorf("left on %s: %v\n%s", n.Name, pods, out)
		}
	}
}
