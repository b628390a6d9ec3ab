// SPDX-License-Identifier: Apache-2.0

package redirect

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/culvert-mesh/culvert/ztunnel/netns"
)

func TestPodsOfLayoutV1AreTakenOverInPlace(t *testing.T) {
	w := unloaded(t)
	v := w.loadV1()
	p := w.podOfV1(v)
	for range 3 { // it works as that version did
		wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
		wantServer(t, w.ns, netip.AddrPortFrom(p.v6, 8080), "plaintext")
	}
	var pods ebpf.MapID
	if info, err := v.out.Maps["pods"].Info(); err == nil {
		pods, _ = info.ID()
	}
	steered := sum(t, v.out.Maps["counters"], 0)
	v.kill()
	stop := w.watch(p)
	w.d = load(t, w.opts)
	if reached := stop(); len(reached) > 0 {
		t.Errorf("without ztunnel: %q", reached)
	}
	if in, out := w.d.Steered(p.ns.Cookie()); !in || !out {
		t.Errorf("steered: inbound %v, outbound %v", in, out)
	}
	if info, err := w.d.mesh.Pods.Info(); err == nil {
		if id, _ := info.ID(); id != pods {
			t.Errorf("pods is map %d, was %d", id, pods)
		}
	}
	if got := w.d.Stats()["outbound_steered"]; got < steered || steered < 3 {
		t.Errorf("outbound_steered is %d, was %d", got, steered)
	}
	w.wantOnlyOurs(p)
	// Its twin: whoever was no pod of v1 is none now.
	wantServer(t, w.pod().ns, netip.AddrPortFrom(node4, 8080), "node")
}

// That version set sysctls and rules, and remembered neither.
func TestAPodOfLayoutV1LeavesNothingBehind(t *testing.T) {
	for name, enrolledAgain := range map[string]bool{"it is enrolled again": true, "it leaves at once": false} {
		t.Run(name, func(t *testing.T) {
			w := unloaded(t)
			v := w.loadV1()
			p := w.podOfV1(v)
			before := rules(w, p)
			w.in(p.ns, func() error {
				for _, s := range sysctls[:3] {
					if err := writeSysctl(s.path, "1"); err != nil {
						return err
					}
				}
				for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
					rule := netlink.NewRule()
					rule.Family, rule.Priority, rule.Mark, rule.Table = family, innerPriority, innerMark, innerTable
					if err := netlink.RuleAdd(rule); err != nil {
						return err
					}
				}
				return nil
			})
			v.kill()
			w.d = load(t, w.opts)
			if enrolledAgain {
				p.enroll(w.d)
			}
			if !w.d.Routed(p.ns.Cookie()) {
				t.Error("nobody knows that the pod is routed")
			}
			if err := errors.Join(w.d.UnsteerOutbound(p.ns.Cookie()), w.d.UnsteerInbound(p.ns.Cookie()), w.d.Unroute(p.ns)); err != nil {
				t.Fatal(err)
			}
			for _, s := range sysctls {
				if got := sysctlOf(w, p, s.path); got != "0" {
					t.Errorf("%s is %s", s.path, got)
				}
			}
			if got := rules(w, p); got != before {
				t.Errorf("%d rules, before %d", got, before)
			}
		})
	}
}

func sum(t *testing.T, counters *ebpf.Map, index uint32) (n uint64) {
	t.Helper()
	var perCPU []uint64
	if err := counters.Lookup(index, &perCPU); err != nil {
		t.Fatal(err)
	}
	for _, c := range perCPU {
		n += c
	}
	return n
}

// abandon begins to take over and stops after n steps, as a process that dies.
func (w *world) abandon(n int) (all int) {
	w.t.Helper()
	standIns, err := w.opts.validate()
	if err != nil {
		w.t.Fatal(err)
	}
	lock, err := LockDir(w.opts.BPFFS)
	if err != nil {
		w.t.Fatal(err)
	}
	d := &Datapath{opts: w.opts, lock: lock, pins: newPins(w.opts.BPFFS), standIns: standIns,
		pods: make(map[netns.Cookie]*pod)}
	defer d.Close()
	steps, err := d.steps()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, step := range steps[:min(n, len(steps))] {
		if err := step(); err != nil {
			w.t.Fatal(err)
		}
	}
	return len(steps)
}

func TestTakingOverMayStopAfterAnyStep(t *testing.T) {
	w := unloaded(t)
	var pods []*testPodNS
	for range 2 {
		p := w.pod()
		pods = append(pods, p)
		for _, six := range []bool{false, true} {
			serve(t, p.listen(netip.AddrPortFrom(p.addr(six), 8080)), "app")
		}
	}
	for n, all := 0, 1; n <= all; n++ {
		v := w.loadV1()
		for _, p := range pods {
			v.enroll(p, 9090)
		}
		v.kill()
		stop := w.watch(pods...)
		all = w.abandon(n)
		w.d = load(t, w.opts)
		if reached := stop(); len(reached) > 0 {
			t.Fatalf("after step %d of %d: %q", n, all, reached)
		}
		w.wantOnlyOurs(pods...)
		for _, p := range pods {
			p.s.Listeners.Close()
		}
		if err := errors.Join(w.d.Unpin(), w.d.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// The earlier version may run again after we died: it goes on with its own pins.
func TestEarlierVersionMayRunAgainUntilItsPinsAreDropped(t *testing.T) {
	w := unloaded(t)
	v := w.loadV1()
	p := w.podOfV1(v)
	v.kill()
	for n, all := 0, 1; n <= all; n += 4 {
		all = w.abandon(n)
		if names, err := pinsIn(v.pins.links); err != nil || len(names) < len(hookNames) {
			break // it is being dropped
		}
		v = w.loadV1()
		v.enroll(p)
		wantServer(t, p.ns, netip.AddrPortFrom(node4, 8080), "outbound")
		wantServer(t, w.ns, netip.AddrPortFrom(p.v4, 8080), "plaintext")
		if t.Failed() {
			t.Fatalf("after step %d of %d", n, all)
		}
		late := w.podOfV1(v) // in its maps only, perhaps
		v.kill()
		stop := w.watch(p, late)
		w.abandon(n)
		if reached := stop(); len(reached) > 0 {
			t.Fatalf("after step %d of %d: %q", n, all, reached)
		}
	}
	w.d = load(t, w.opts)
	w.wantOnlyOurs(p)
}

// A downgrade leaves both: what the earlier version enrolled since is not lost.
func TestPinsOfBothLayoutsBecomeOne(t *testing.T) {
	w := unloaded(t)
	w.d = load(t, w.opts)
	ours := w.enrolled()
	ours.s.Listeners.Close()
	w.d.Close()
	v := w.loadV1()
	both := w.podOfV1(v)
	v.enroll(ours)
	v.kill()
	stop := w.watch(ours, both)
	w.d = load(t, w.opts)
	if reached := stop(); len(reached) > 0 {
		t.Errorf("without ztunnel: %q", reached)
	}
	w.wantOnlyOurs(ours, both)
}

func TestUnknownLayoutIsRefusedAndItsPodsStayAsTheyAre(t *testing.T) {
	for _, version := range []int{layout + 1, 0} {
		t.Run(fmt.Sprintf("v%d", version), func(t *testing.T) {
			w := newWorld(t)
			p := w.enrolled()
			serve(t, p.listen(netip.AddrPortFrom(p.v4, 8080)), "app")
			p.s.Listeners.Close()
			w.d.Close()
			unknown := pinsOf(w.opts.BPFFS, version)
			if err := os.Rename(w.d.pins.dir, unknown.dir); err != nil {
				t.Fatal(err)
			}
			before := pinned(t, w.opts.BPFFS)
			d, err := Load(w.opts)
			if err == nil {
				d.Close()
			}
			wantError(t, "Load", err, unknown.dir, "pods stay as they are", "version of Culvert")
			if after := pinned(t, w.opts.BPFFS); !slices.Equal(after, before) {
				t.Errorf("pins are %q, were %q", after, before)
			}
			wantRefused(t, p.ns, netip.AddrPortFrom(node4, 8080), nil)
			wantRefused(t, w.ns, netip.AddrPortFrom(p.v4, 8080), nil)
			if err := os.Rename(unknown.dir, w.d.pins.dir); err != nil {
				t.Fatal(err)
			}
			w.d = load(t, w.opts)
		})
	}
}

func TestEveryMapHasARuleForEachFormerLayout(t *testing.T) {
	spec, err := loadMesh()
	if err != nil {
		t.Fatal(err)
	}
	for version := 1; version < layout; version++ {
		for name, m := range spec.Maps {
			if m.Pinning == ebpf.PinByName && migrations[version][name] == nil {
				t.Errorf("layout v%d says nothing of map %s", version, name)
			}
		}
		for name := range migrations[version] {
			if spec.Maps[name] == nil {
				t.Errorf("layout v%d speaks of map %s, which is not there", version, name)
			}
		}
	}
}

// migrating is the environment of a process that loads once and ends.
const migrating = "CULVERT_TEST_MIGRATE" // bpffs, cgroup, netns

func migrateMain(args []string) int {
	ns, err := netns.Open(args[2])
	if err == nil {
		var d *Datapath
		if d, err = Load(Options{BPFFS: args[0], Cgroup: args[1], HostNetns: ns.Cookie()}); err == nil {
			d.Close()
			return 0
		}
	}
	fmt.Println(err)
	return 1
}

func TestTakingOverSurvivesKillAtAnyTime(t *testing.T) {
	w := unloaded(t)
	p := w.pod()
	for _, six := range []bool{false, true} {
		serve(t, p.listen(netip.AddrPortFrom(p.addr(six), 8080)), "app")
	}
	migrate := func(limit time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), limit) // SIGKILL
		defer cancel()
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Env = append(os.Environ(), migrating+"="+strings.Join([]string{w.opts.BPFFS, w.opts.Cgroup, w.path}, " "), "GORACE=atexit_sleep_ms=0")
		out, err := cmd.CombinedOutput()
		if err != nil && ctx.Err() == nil {
			t.Fatalf("%v: %s", err, out)
		}
		return err
	}
	start := time.Now()
	if err := migrate(time.Minute); err != nil {
		t.Fatal(err)
	}
	longest := time.Since(start)
	killed := 0
	for range 12 {
		w.d = load(t, w.opts)
		if err := errors.Join(w.d.Unpin(), w.d.Close()); err != nil {
			t.Fatal(err)
		}
		v := w.loadV1()
		v.enroll(p)
		v.kill()
		stop := w.watch(p)
		for i := range 3 {
			start := time.Now()
			if migrate(rand.N(longest)) != nil {
				killed++
			} else if i == 0 { // the first may have taken longer than any other
				longest = min(longest, time.Since(start))
			}
		}
		w.d = load(t, w.opts)
		if reached := stop(); len(reached) > 0 {
			t.Fatalf("without ztunnel: %q", reached)
		}
		w.wantOnlyOurs(p)
		p.s.Listeners.Close()
		w.d.Close()
	}
	t.Logf("killed %d of 36 within %v", killed, longest)
	if killed == 0 {
		t.Error("no process was killed while it took over")
	}
}
